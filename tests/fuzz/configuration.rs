//! Configuration: files, variables and flags with odd values, and the largest values on the running program.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use imgcls::config::{ConfigError, Layers, Raw, flags::Overrides};
use proptest::prelude::*;
use toml::{Table, Value};

use crate::support::{client, form, imgcls, picture};

/// Every key with its default.
fn keys() -> Vec<(String, Value)> {
    fn add(all: &mut Vec<(String, Value)>, prefix: &str, table: Table) {
        for (key, value) in table {
            match value {
                Value::Table(inner) => add(all, &format!("{prefix}{key}."), inner),
                value => all.push((format!("{prefix}{key}"), value)),
            }
        }
    }
    let mut all = Vec::new();
    add(&mut all, "", toml::to_string(&Raw::default()).unwrap().parse().unwrap());
    assert!(all.len() > 30);
    all
}

fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "",
        " ",
        "-1",
        "0",
        "1",
        "2",
        "9223372036854775807",
        "18446744073709551616",
        "1e308",
        "nan",
        "-inf",
        "0.5",
        "true",
        "5s",
        "99999999999999999999h",
        "584542046090y",
        "1ns",
        "[",
        "[1, 2]",
        "['a', 'b']",
        "a,b,,c",
        "127.0.0.1:0",
        "[::1]:0",
        "10.0.0.0/8",
        "\"",
        "'''",
        "{}",
        "a.b",
        "\n",
        "\0",
        "local",
        "aws",
        "(set)",
    ]);
    prop_oneof![4 => odd.prop_map(str::to_owned), 1 => "\\PC{0,30}"]
}

/// The configuration as it takes effect.
fn load(file: Option<&Path>, variables: Vec<(String, String)>, flags: &[(String, String)]) -> Result<Raw, ConfigError> {
    let mut overrides = Overrides::default();
    flags.iter().for_each(|(key, value)| overrides.set(key, Some(value)));
    Layers::load(file, variables, &overrides)?.raw.effective()
}

/// What can be wrong with it is said in words, and with the key or the place.
fn check(
    file: Option<&str>,
    variables: Vec<(String, String)>,
    flags: &[(String, String)],
) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let path = file.map(|text| {
        let path = dir.path().join("imgcls.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    match load(path.as_deref(), variables, flags) {
        Ok(config) => {
            let printed =
                toml::to_string(&config).map_err(|e| TestCaseError::fail(format!("cannot be printed: {e}")))?;
            // Secrets are not printed, so what is printed cannot be read with one.
            if !printed.contains("(set)") {
                std::fs::write(dir.path().join("printed.toml"), &printed).unwrap();
                let again = load(Some(&dir.path().join("printed.toml")), Vec::new(), &[]);
                let again = again.map_err(|e| TestCaseError::fail(format!("{printed} is refused: {e}")))?;
                prop_assert_eq!(toml::to_string(&again).unwrap(), printed);
            }
        }
        Err(error) => prop_assert!(error.to_string().len() > 10, "{}", error),
    }
    Ok(())
}

#[test]
fn every_setting_is_taken_or_refused() {
    let keys: Vec<String> = keys().into_iter().map(|(key, _)| key).collect();
    let setting = (prop::sample::select(keys), text());
    let settings = prop::collection::vec((setting, 0..3_usize), 1..4);
    let mut runner = super::runner(800, "proptest-regressions/tests/configuration.txt");
    let outcome = runner.run(&settings, |settings| {
        let of = |layer: usize| settings.iter().filter(move |(_, at)| *at == layer).map(|(setting, _)| setting.clone());
        let lines: String = of(0).map(|(key, text)| format!("{key} = {text}\n")).collect();
        let variables =
            of(1).map(|(key, text)| (format!("IMGCLS_{}", key.replace('.', "_").to_uppercase()), text)).collect();
        check(Some(&lines), variables, &of(2).collect::<Vec<_>>())
    });
    outcome.unwrap();
}

#[test]
fn every_file_is_read_or_refused() {
    let defaults = toml::to_string(&Raw::default()).unwrap();
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..5);
    let damaged = damage.prop_map(move |damage| {
        let mut chars: Vec<char> = defaults.chars().collect();
        for (at, char) in damage {
            let at = at.index(chars.len());
            chars[at] = char;
        }
        chars.into_iter().collect::<String>()
    });
    let text = prop_oneof![damaged, "\\PC{0,200}", "([a-z]{1,4}\\.?){1,3} = [\\[\\]{}\"'0-9a-z,\\n]{0,40}"];
    let mut runner = super::runner(400, "proptest-regressions/tests/files.txt");
    runner.run(&text, |text| check(Some(&text), Vec::new(), &[])).unwrap();
}

/// The largest value that each key takes; a program that reads it works with it.
#[test]
fn the_largest_values_work_or_are_refused() {
    let mut settings: Vec<(String, String)> = Vec::new();
    for (key, default) in keys() {
        let largest: &[&str] = match &default {
            Value::Integer(_) => &["9223372036854775807", "4294967295", "65536", "256"],
            Value::Float(_) => &["1e300", "1000000", "1"],
            Value::String(text) if text.ends_with('B') => &["18446744073709551615", "9223372036854775807", "1024GiB"],
            Value::String(text) if text.parse::<humantime::Duration>().is_ok() => &["500000000000y", "1000000y", "12h"],
            _ => continue,
        };
        let flags = |all: &[(String, String)], text: &str| [all, &[(key.clone(), text.to_owned())]].concat();
        let taken = largest.iter().find(|text| load(None, Vec::new(), &flags(&settings, text)).is_ok());
        // Workers that are wanted are started, and these are more than the machine holds.
        settings.extend(taken.filter(|_| key != "fleet.min").map(|text| (key.clone(), (*text).to_owned())));
    }
    let settings: Vec<String> = settings.into_iter().map(|(key, text)| format!("{key}={text}")).collect();
    assert!(settings.len() > 15, "{settings:?}");
    if let Err(together) = serves_and_works(&settings) {
        let alone: Vec<_> =
            settings.iter().filter_map(|one| serves_and_works(std::slice::from_ref(one)).err()).collect();
        panic!("{together}; each alone: {alone:#?}");
    }
}

/// Starts a server with these settings, uploads a picture, and has a worker classify it.
fn serves_and_works(settings: &[String]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let sets: Vec<&str> = settings.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let told = |what: &str| {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let panic = log.lines().find(|line| line.contains("panicked")).or(log.lines().next_back());
        format!("{settings:?}: {what}: {}", panic.unwrap_or_default())
    };
    let mut server = imgcls()
        .args(["serve", "--no-workers", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .args(&sets)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let outcome = line.trim().strip_prefix("listening on ").ok_or_else(|| told("it does not start")).and_then(|url| {
        let stored = tokio::runtime::Runtime::new().unwrap().block_on(async {
            let request = client().post(format!("{url}/")).multipart(form([("a.png".to_owned(), picture(1))]));
            request.header("accept", "application/json").send().await?.text().await
        });
        let answer = stored.unwrap_or_else(|error| error.to_string());
        if answer.contains("\"image\":\"a.png\"") { Ok(()) } else { Err(told(&answer)) }
    });
    server.kill().unwrap();
    server.wait().unwrap();
    outcome?;
    let mut worker = imgcls();
    worker.args(["work", "--until-empty", "--data-dir"]).arg(dir.path().join("data")).args(&sets);
    let output = worker.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_done = output.status.success() && !stderr.contains("panicked");
    if is_done { Ok(()) } else { Err(format!("{settings:?}: the worker ended with {}: {stderr}", output.status)) }
}
