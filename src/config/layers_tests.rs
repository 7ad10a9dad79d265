//! Tests of `layers.rs`.

use std::time::Duration;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn flags(pairs: &[(&str, &str)]) -> Overrides {
    let mut flags = Overrides::default();
    pairs.iter().for_each(|(key, value)| flags.set(key, Some(value)));
    flags
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn later_layers_win() {
    let file = file("data_dir = \"/a\"\n[fleet]\nmin = 2\nmax = 5\n[queue]\nvisibility_timeout = \"1m\"\n");
    let variables = env(&[("IMGCLS_FLEET_MAX", "6"), ("IMGCLS_DATA_DIR", "/b"), ("HOME", "/h")]);
    let layers = Layers::load(Some(file.path()), variables, &flags(&[("data_dir", "/c")])).unwrap();
    let raw = &layers.raw;
    assert_eq!((raw.fleet.min, raw.fleet.max), (2, 6));
    assert_eq!(raw.data_dir, Path::new("/c"));
    assert_eq!(raw.queue.visibility_timeout, Duration::from_secs(60));
    let of = |key: &str| layers.origins.get(key).map(ToString::to_string);
    assert_eq!(of("fleet.min"), Some(format!("file {}", file.path().display())));
    assert_eq!(of("fleet.max").as_deref(), Some("environment variable IMGCLS_FLEET_MAX"));
    assert_eq!(of("data_dir").as_deref(), Some("the command line"));
    assert_eq!(of("model"), None);
}

#[test]
fn lists_and_secrets_come_from_text() {
    let variables = env(&[
        ("IMGCLS_WEB_TOKEN", "s3cret"),
        ("IMGCLS_WEB_PUBLIC_HOSTS", "a.example, b.example"),
        ("IMGCLS_WORKER_SHUTDOWN_COMMAND", r#"["sh", "-c", "a, b"]"#),
        ("IMGCLS_LIMITS_MAX_BYTES", "2MiB"),
        ("IMGCLS_WORKER_PIXEL_BUDGET", "1000"),
    ]);
    let raw = Layers::load(None, variables, &Overrides::default()).unwrap().raw;
    assert_eq!(raw.web.public_hosts, ["a.example", "b.example"]);
    assert_eq!(raw.worker.shutdown_command, ["sh", "-c", "a, b"]);
    assert_eq!((raw.limits.max_bytes.0, raw.worker.pixel_budget.0), (2 << 20, 1000));
    assert_eq!(raw.web.token.expose(), "s3cret");
    let printed = format!("{raw:?}{}", toml::to_string(&raw).unwrap());
    assert!(!printed.contains("s3cret"), "{printed}");
}

#[test]
fn a_mirror_is_written_without_its_user() {
    let variables = env(&[("IMGCLS_MODEL_MIRROR", "https://me:s3cret@mirror.example/a")]);
    let raw = Layers::load(None, variables, &Overrides::default()).unwrap().raw;
    assert_eq!(raw.model_mirror.expose(), "https://me:s3cret@mirror.example/a");
    let written = format!("{raw:?}{}", toml::to_string(&raw).unwrap());
    assert_eq!(written.matches("\"https://mirror.example/a\"").count(), 2, "{written}");
    assert!(!written.contains("s3cret"), "{written}");
}

#[test]
fn errors_name_the_key_and_where_it_came_from() {
    let bad = file("[fleet]\nmaximum = 3\n");
    let no_toml = file("fleet");
    for (file, variables, set, want) in [
        (Some(bad.path()), env(&[]), flags(&[]), "unknown configuration key \"fleet.maximum\" from file"),
        (Some(no_toml.path()), env(&[]), flags(&[]), "is not valid TOML"),
        (
            Some(Path::new("/nonexistent.toml")),
            env(&[]),
            flags(&[]),
            "cannot read configuration file /nonexistent.toml",
        ),
        (
            None,
            env(&[("IMGCLS_FLEET_MAX", "many")]),
            flags(&[]),
            "fleet.max must be a whole number, and is a text (from environment variable IMGCLS_FLEET_MAX)",
        ),
        (None, env(&[]), flags(&[("worker.metrics_listen", "9101")]), "\"9101\" is not ADDRESS:PORT"),
        (
            None,
            env(&[]),
            flags(&[("fleet.max", "-1")]),
            "fleet.max must be a whole number in its range (from the command line)",
        ),
        (None, env(&[]), flags(&[("fleet.mux", "1")]), "unknown configuration key \"fleet.mux\""),
        (None, env(&[]), flags(&[("fleet", "1")]), "unknown configuration key \"fleet\""),
        (None, env(&[]), flags(&[("queue.visibility_timeout", "soon")]), "not a duration"),
        (None, env(&[]), flags(&[("limits.max_bytes", "much")]), "not a size"),
    ] {
        let error = Layers::load(file, variables, &set).unwrap_err().to_string();
        assert!(error.contains(want), "{error:?} does not say {want:?}");
    }
}

#[test]
fn unknown_variables_are_named_with_the_nearest_key() {
    let variables = env(&[
        ("IMGCLS_FLEET_MUX", "3"),
        ("IMGCLS_PORT", "tcp://10.0.0.1:80"),
        ("IMGCLS_LOG", "debug"),
        ("IMGCLS_EMBED", "/x"),
    ]);
    let layers = Layers::load(None, variables, &Overrides::default()).unwrap();
    assert_eq!(layers.raw, Raw::default());
    let names: Vec<&str> = layers.unknown.iter().map(|unknown| unknown.name.as_str()).collect();
    assert_eq!(names, ["IMGCLS_FLEET_MUX", "IMGCLS_PORT"]);
    assert_eq!(layers.unknown[0].nearest, "IMGCLS_FLEET_MAX");
}

#[test]
fn variables_that_are_no_text_are_refused_by_name() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = |name: &str| (OsString::from(name), OsString::from_vec(b"s3cret\xff".to_vec()));
    let error = environment([("A".into(), "b".into()), odd("IMGCLS_WEB_TOKEN")]).unwrap_err().to_string();
    assert!(error.contains("IMGCLS_WEB_TOKEN is not valid UTF-8") && !error.contains("s3cret"), "{error}");
    assert_eq!(environment([("A".into(), "b".into()), odd("PS1"), odd("IMGCLS_CONFIG")]).unwrap(), env(&[("A", "b")]));
}

#[test]
fn values_that_do_not_fit_are_refused_in_words() {
    for (text, want) in [
        ("backend = \"gcp\"", "backend is \"gcp\"; it must be local or aws (from file "),
        ("backend = 5", "backend must be a text, and is a whole number (from file "),
        ("[fleet]\nmax = \"5\"", "fleet.max must be a whole number, and is a text (from file "),
        ("[web]\nopen = 1.5", "web.open must be true or false, and is a number (from file "),
        ("[web]\ntoken = 12345", "web.token must be a text, and is a whole number (from file "),
        ("[web]\npublic_hosts = \"a\"", "web.public_hosts must be a list, and is a text (from file "),
        ("fleet = 5", "fleet must be a table, and is a whole number (from file "),
        ("[data_dir]", "data_dir must be a text, and is a table (from file "),
        ("[fleet]\nmax = -1", "fleet.max must be a whole number in its range (from file "),
        ("[fleet]\nmax = 5000000000", "fleet.max must be a whole number in its range (from file "),
    ] {
        let error = Layers::load(Some(file(text).path()), [], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains(want) && !error.contains("12345"), "{error:?} does not say {want:?}");
    }
    // What a layer wrote as a number, the next may write as a text.
    let numbers = file("min_confidence = 1\n[queue]\nvisibility_timeout = 30\n[limits]\nmax_bytes = 5\n");
    let later = [("MIN_CONFIDENCE", "0.5"), ("QUEUE_VISIBILITY_TIMEOUT", "45s"), ("LIMITS_MAX_BYTES", "1MiB")];
    let later = later.map(|(name, text)| (format!("IMGCLS_{name}"), text.to_owned()));
    let raw = Layers::load(Some(numbers.path()), later, &Overrides::default()).unwrap().raw;
    assert_eq!((raw.min_confidence, raw.limits.max_bytes.0), (crate::config::MinConfidence::Of(0.5), 1 << 20));
    assert_eq!(raw.queue.visibility_timeout, std::time::Duration::from_secs(45));
    let whole = file("min_confidence = 1\n");
    assert!(Layers::load(Some(whole.path()), [], &Overrides::default()).is_ok());
}

#[test]
fn every_default_survives_the_file() {
    let text = toml::to_string(&Raw::default()).unwrap();
    let file = file(&text);
    assert_eq!(Layers::load(Some(file.path()), [], &Overrides::default()).unwrap().raw, Raw::default());
}
