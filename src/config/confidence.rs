//! The probability below which a label is in doubt.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The word for the model's own threshold.
const MODEL: &str = "model";

/// Below which probability labels are marked as uncertain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinConfidence {
    /// The threshold on the model's card; none if it has none.
    OfModel,
    /// This one; at 0 none is marked.
    Of(f64),
}

impl MinConfidence {
    /// The threshold, where the model's own is `card`.
    #[must_use]
    pub fn resolve(self, card: Option<f32>) -> f32 {
        match self {
            Self::OfModel => card.unwrap_or(0.0),
            Self::Of(least) => least as f32,
        }
    }
}

impl Serialize for MinConfidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::OfModel => serializer.serialize_str(MODEL),
            Self::Of(least) => serializer.serialize_f64(*least),
        }
    }
}

impl<'de> Deserialize<'de> for MinConfidence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(f64),
            Text(String),
        }
        let least = match Either::deserialize(deserializer) {
            Ok(Either::Text(text)) if text == MODEL => return Ok(Self::OfModel),
            Ok(Either::Number(least)) => Some(least),
            Ok(Either::Text(text)) => text.parse().ok(),
            Err(_) => None,
        };
        let least = least.filter(|least| (0.0..=1.0).contains(least));
        least.map(Self::Of).ok_or_else(|| D::Error::custom("min_confidence must be 0 to 1, or \"model\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct File {
        least: MinConfidence,
    }

    fn read(text: &str) -> Result<MinConfidence, toml::de::Error> {
        toml::from_str::<File>(&format!("least = {text}")).map(|file| file.least)
    }

    #[test]
    fn numbers_and_the_models_own() {
        assert_eq!(read("0.25").unwrap(), MinConfidence::Of(0.25));
        assert_eq!(read("0").unwrap(), MinConfidence::Of(0.0));
        assert_eq!(read("\"0.5\"").unwrap(), MinConfidence::Of(0.5));
        assert_eq!(read("\"model\"").unwrap(), MinConfidence::OfModel);
        for bad in ["-0.1", "1.5", "nan", "\"x\"", "true", "[]"] {
            assert!(read(bad).unwrap_err().to_string().contains("0 to 1"), "{bad}");
        }
        for least in [MinConfidence::OfModel, MinConfidence::Of(0.5), MinConfidence::Of(1.0)] {
            let text = toml::to_string(&File { least }).unwrap();
            assert_eq!(toml::from_str::<File>(&text).unwrap().least, least);
        }
        assert_eq!(MinConfidence::OfModel.resolve(Some(0.6)), 0.6);
        assert_eq!(MinConfidence::OfModel.resolve(None), 0.0);
        assert_eq!(MinConfidence::Of(0.0).resolve(Some(0.6)), 0.0);
    }
}
