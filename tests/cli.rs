//! The command line: help, configuration, errors and exit codes.

use crate::support::imgcls;

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = imgcls().args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn bad_configuration_is_named_and_ends_with_2() {
    for (args, want) in [
        (vec!["config", "--set", "fleet.mux=3"], "unknown configuration key \"fleet.mux\""),
        (vec!["config", "--set", "fleet.max=many"], "fleet.max"),
        (vec!["config", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (vec!["serve", "--listen", "0.0.0.0:0"], "--token"),
        (vec!["config", "--backend", "aws"], "aws.bucket"),
        (vec!["serve", "--set", "web.token=(set)"], "IMGCLS_WEB_TOKEN"),
        (
            vec!["config", "--set", "fleet.max=-1"],
            "fleet.max must be a whole number in its range (from the command line)",
        ),
        (vec!["config", "--set", "limits.max_side=0"], "limits.max_side is 0"),
        (vec!["config", "--set", "data_dir="], "data_dir is empty"),
        (vec!["config", "--set", "web.public_hosts=http://foo"], "name hosts alone"),
        (vec!["config", "--set", "worker.threads=9999"], "at most 256"),
    ] {
        let (code, stdout, stderr) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("imgcls: ") && stderr.contains(want), "{args:?}: {stderr}");
    }
}

/// Were it left out, a server would stand open.
#[test]
fn a_token_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let value = std::ffi::OsStr::from_bytes(b"s3cret\xff");
    for args in [&["serve", "--listen", "127.0.0.1:0"][..], &["config"]] {
        let output = imgcls().args(args).env("IMGCLS_WEB_TOKEN", value).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("IMGCLS_WEB_TOKEN is not valid UTF-8") && !stderr.contains("s3cret"), "{stderr}");
    }
}

#[test]
fn an_empty_variable_names_no_configuration_file() {
    let output = imgcls().args(["config"]).env("IMGCLS_CONFIG", "").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(run(&["config", "--config", ""]).0, Some(2));
}

#[test]
fn a_port_that_is_taken_leaves_no_data_directory() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&["serve", "--listen", &address, "--data-dir", data.to_str().unwrap()]);
    assert!(code == Some(1) && stderr.contains("cannot listen on"), "{stderr}");
    assert!(!data.exists());
}

/// The values of a printed configuration; what follows as comments is where they come from.
fn values(printed: &str) -> toml::Table {
    printed.parse().unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[test]
fn the_printed_configuration_is_a_configuration() {
    let (code, printed, _) = run(&["config", "--set", "fleet.max=3"]);
    assert!(code == Some(0) && printed.contains("max = 3"), "{printed}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &printed).unwrap();
    let (code, again, stderr) = run(&["config", "--config", file.path().to_str().unwrap()]);
    assert_eq!((code, values(&again), stderr.as_str()), (Some(0), values(&printed), ""));
}

#[test]
fn the_printed_configuration_tells_its_sources() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "[fleet]\nmin = 2\nmax = 5\n").unwrap();
    let path = file.path().to_str().unwrap();
    let mut tool = imgcls();
    tool.args(["config", "--config", path, "--data-dir", "/d"]).env("IMGCLS_FLEET_MAX", "6");
    let printed = String::from_utf8(tool.output().unwrap().stdout).unwrap();
    let line = |start: &str| printed.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    assert!(line("data_dir = \"/d\"").ends_with("# the command line"), "{printed}");
    assert!(line("min = 2").ends_with(&format!("# file {path}")), "{printed}");
    assert!(line("max = 6").ends_with("# environment variable IMGCLS_FLEET_MAX"), "{printed}");
    assert!(line("threads = ").ends_with("# automatic"), "{printed}");
    assert_eq!(line("listen = "), "listen = \"127.0.0.1:8080\"");
}

/// A value that was found is not told as what the file says.
#[test]
fn an_automatic_value_shows_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("d.toml"), "[worker]\nthreads = 0\n[fleet]\nmin = 0\nmax = 0\n").unwrap();
    let mut tool = imgcls();
    tool.args(["config", "--config", "d.toml"]).env("IMGCLS_FLEET_MAX", "0").current_dir(dir.path());
    let printed = String::from_utf8(tool.output().unwrap().stdout).unwrap();
    let found = values(&printed);
    let comments = printed.lines().filter_map(|line| line.split_once('#'));
    // How many cores there are is another thing on another machine.
    let shown: Vec<String> = comments
        .map(|(assignment, comment)| format!("{} …  #{comment}", assignment.split(" =").next().unwrap_or_default()))
        .collect();
    insta::assert_snapshot!("sources", shown.join("\n"));
    assert!(found["worker"]["threads"].as_integer() > Some(0) && found["fleet"]["max"].as_integer() > Some(0));
    assert_eq!(found["fleet"]["min"].as_integer(), Some(0));
}

#[test]
fn a_printed_secret_is_no_secret() {
    let (_, printed, _) = run(&["config", "--set", "web.token=s3cret"]);
    assert!(!printed.contains("s3cret"), "{printed}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &printed).unwrap();
    let path = file.path().to_str().unwrap();
    let (code, _, stderr) = run(&["config", "--config", path]);
    assert!(code == Some(2) && stderr.contains("web.token is \"(set)\""), "{stderr}");
    assert_eq!(run(&["config", "--config", path, "--set", "web.token=s3cret"]).0, Some(0));
}

/// What an orchestrator sets for a service of our name stops nothing, and a slip of the pen does not go unnoticed.
#[test]
fn unknown_variables_are_warned_of_with_the_nearest_key() {
    let output =
        imgcls().arg("config").env("IMGCLS_PORT", "tcp://10.0.0.1:80").env("IMGCLS_FLEET_MUX", "3").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{stderr}");
    assert!(stderr.contains("IMGCLS_PORT") && stderr.contains("IMGCLS_FLEET_MUX"), "{stderr}");
    assert!(stderr.contains("the nearest key is IMGCLS_FLEET_MAX"), "{stderr}");
}

#[test]
fn a_model_that_is_not_there_is_bad_usage() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for command in ["classify", "serve", "work"] {
        let mut tool = imgcls();
        tool.args([command, "--model", "/nonexistent", "--data-dir"]).arg(&data);
        if command == "classify" {
            tool.arg("x.png");
        }
        let output = tool.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains("/nonexistent"), "{command}: {stderr}");
    }
}

#[test]
fn keys_of_the_web_tier_stop_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = |command: &[&str]| {
        let mut tool = imgcls();
        tool.args(command).arg("--data-dir").arg(dir.path()).env("IMGCLS_WEB_LISTEN", "0.0.0.0:8080");
        tool.output().unwrap().status.code()
    };
    assert_eq!(run(&["serve"]), Some(2));
    assert_eq!(run(&["work", "--until-empty"]), Some(0));
    assert_eq!(run(&["scale", "--dry-run"]), Some(0));
    assert_eq!(run(&["status"]), Some(0));
}

#[test]
fn an_error_is_told_once() {
    for args in [
        &["config", "--config", "/nonexistent.toml"][..],
        &["classify", "--model", "/nonexistent", "x.png"],
        &["serve", "--model", "/nonexistent", "--listen", "127.0.0.1:0"],
    ] {
        let (code, _, stderr) = run(args);
        assert_ne!(code, Some(0), "{args:?}");
        assert_eq!(stderr.matches("/nonexistent").count(), 1, "{args:?}: {stderr}");
    }
}

#[test]
fn a_data_directory_is_not_made_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("mistyped");
    let tools: [(&[&str], i32); 5] = [
        (&["status"], 1),
        (&["reset", "--yes"], 1),
        (&["queue", "peek"], 1),
        (&["work", "--until-empty"], 1),
        (&["scale"], 3),
    ];
    for (tool, want) in tools {
        let (code, stdout, stderr) = run(&[tool, &["--data-dir", missing.to_str().unwrap()]].concat());
        assert_eq!(code, Some(want), "{tool:?}");
        assert!(stdout.is_empty() && stderr.contains("there is no data in"), "{tool:?}: {stderr}");
    }
    assert!(!missing.exists());
}

#[test]
fn what_does_not_fit_a_flag_is_told_in_words() {
    for (args, want) in [
        (["classify", "--top", "0", "x"], "must be a whole number of 1 or more"),
        (["classify", "--threads", "9999", "x"], "must be 1 to 256"),
        (["queue", "peek", "--limit", "0"], "must be a whole number of 1 or more"),
        (["serve", "--listen", "localhost", "--open"], "must be an IP address or a name, and a port"),
    ] {
        let (code, _, stderr) = run(&args);
        assert!(code == Some(2) && stderr.contains(want), "{args:?}: {stderr}");
    }
    let output = imgcls().arg("config").env("IMGCLS_LOG", "imgcls=loud").output().unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("IMGCLS_LOG"));
}

#[test]
fn the_annotated_configuration_tells_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/imgcls.toml");
    let (_, printed, _) = run(&["config", "--config", example]);
    assert_eq!(values(&printed), values(&run(&["config"]).1));
    let (code, annotated, stderr) = run(&["config", "--default"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(annotated, std::fs::read_to_string(example).unwrap());
    // Every key is in the file, and nothing else is.
    let keys = |table: &toml::Table| -> Vec<String> {
        let inner = |(section, value): (&String, &toml::Value)| match value.as_table() {
            Some(table) => table.keys().map(|key| format!("{section}.{key}")).collect(),
            None => vec![section.clone()],
        };
        table.iter().flat_map(inner).collect()
    };
    assert_eq!(keys(&values(&annotated)), keys(&values(&printed)));
}

/// What help and manual say of the configuration is so: every key and variable that they name is there.
#[test]
fn help_names_only_what_there_is() {
    let printed = values(&run(&["config"]).1);
    let is_key = |key: &str| match key.split_once('.') {
        Some((section, key)) => printed.get(section).and_then(|table| table.get(key)).is_some(),
        None => printed.contains_key(key),
    };
    let variables = |section: &str, table: &toml::Table| -> Vec<String> {
        table.keys().map(|key| format!("IMGCLS_{section}{}", key.to_uppercase())).collect()
    };
    let mut known = variables("", &printed);
    for (section, value) in &printed {
        known.extend(
            value
                .as_table()
                .map(|table| variables(&format!("{}_", section.to_uppercase()), table))
                .into_iter()
                .flatten(),
        );
    }
    known.extend(["IMGCLS_CONFIG", "IMGCLS_LOG"].map(String::from));
    let mut seen = 0;
    for command in ["serve", "work", "scale", "reset", "classify", "status", "queue", "setup", "config"] {
        let (code, help, _) = run(&[command, "--help"]);
        assert_eq!(code, Some(0));
        for word in help.split(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c))) {
            let word = word.trim_matches('.');
            let section = word.split_once('.').map(|(section, _)| section);
            if section.is_some_and(|section| printed.get(section).is_some_and(toml::Value::is_table)) {
                assert!(is_key(word), "{command} --help names {word}");
                seen += 1;
            }
            if word.starts_with("IMGCLS_") {
                assert!(known.iter().any(|name| name == word), "{command} --help names {word}");
                seen += 1;
            }
        }
    }
    assert!(seen > 9, "only {seen} keys and variables were found");
    let (_, help, _) = run(&["serve", "--help"]);
    let listen = printed["web"]["listen"].as_str().unwrap();
    assert!(help.contains(&format!("Default: {listen}")), "{help}");
}

#[test]
fn completions_and_manual_are_printed() {
    let (code, script, _) = run(&["completions", "bash"]);
    assert!(code == Some(0) && script.contains("imgcls"));
    let (code, manual, _) = run(&["man"]);
    assert!(code == Some(0) && manual.contains(".TH imgcls") && manual.contains(".SH \"EXIT CODES\""));
    assert!(manual.contains("imgcls\\-serve(1)") && !manual.contains("help(1)"), "{manual}");
    let (code, manual, _) = run(&["man", "serve"]);
    assert!(code == Some(0) && manual.contains(".TH imgcls-serve") && manual.contains("listen"), "{manual}");
    let source = format!("\"imgcls {}\"", env!("CARGO_PKG_VERSION"));
    assert!(manual.lines().any(|line| line.starts_with(".TH") && line.contains(&source)), "{manual}");
    let (code, manual, _) = run(&["man", "queue", "peek"]);
    assert!(code == Some(0) && manual.contains("imgcls-queue-peek") && manual.contains("limit"), "{manual}");
    for nonsense in [&["man", "nonsense"][..], &["man", "queue", "nonsense"], &["man", "serve", "peek"]] {
        assert!(run(nonsense).2.contains("there is no command"), "{nonsense:?}");
    }
    // A reader that has gone is no error, and no panic.
    let mut child = imgcls().args(["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// The help of all commands, so that whoever changes it sees what users will.
#[test]
fn help_is_as_it_was() {
    let mut all = String::new();
    for command in [
        "",
        "serve",
        "work",
        "scale",
        "reset",
        "classify",
        "model",
        "train",
        "status",
        "queue",
        "setup",
        "config",
        "completions",
        "man",
    ] {
        let path: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = imgcls().args(&path).env("COLUMNS", "100").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let last = help.find("Common options:").map_or("", |at| &help[at..]);
        let does_nothing = ["classify", "train", "model", "completions", "man"].contains(&command);
        assert_eq!(last.contains("--data-dir"), !does_nothing && command != "setup", "{command}: {help}");
        all += &format!("$ imgcls {}\n{help}\n", path.join(" "));
    }
    insta::assert_snapshot!("help", all);
    for manual in [&["man"][..], &["man", "serve"], &["man", "classify"]] {
        let page = run(manual).1;
        // One example a line.
        let examples = page.split_once(".SH \"EXAMPLES\"\n.nf\n").and_then(|(_, rest)| rest.split_once("\n.fi\n"));
        let lines = examples.map(|(lines, _)| lines.lines().filter(|line| line.contains("imgcls ")).count());
        assert!(page.contains("IMGCLS_LOG") && lines >= Some(3), "{manual:?}: {page}");
    }
}

/// No parser speaks in the words of its programmer.
#[test]
fn numbers_and_times_are_refused_in_words() {
    for args in [
        &["serve", "--max-workers", "x"][..],
        &["serve", "--max-workers=-1"],
        &["classify", "--max-side", "x", "a"],
        &["classify", "--max-pixels", "1e3", "a"],
        &["classify", "--max-bytes", "big", "a"],
        &["scale", "--burst", "x"],
        &["scale", "--burst", "1", "--min", "x"],
        &["scale", "--burst", "1", "--boot", "soon"],
        &["scale", "--burst", "1", "--price", "x"],
        &["scale", "--rate", "x"],
        &["scale", "--loop", "x"],
        &["train", "x", "--out", "y", "--seed", "x"],
        &["queue", "peek", "--limit", "x"],
        &["config", "--set", "fleet.max=x"],
        &["config", "--set", "web.classify_timeout=soon"],
        &["config", "--set", "limits.max_bytes=x"],
        &["config", "--set", "web.trusted_proxies=x"],
        &["config", "--set", "worker.metrics_listen=x"],
        &["config", "--set", "scaling.low=x"],
        &["config", "--set", "min_confidence=x"],
    ] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        for programmers in [
            "invalid digit",
            "invalid float",
            "ParseIntError",
            "missing field",
            "expected number",
            "invalid type",
            "expected a",
            "unknown variant",
        ] {
            assert!(!stderr.contains(programmers), "{args:?}: {stderr}");
        }
    }
}

#[test]
fn an_empty_list_says_so() {
    let server = crate::support::Server::start(&["--no-workers"]);
    for (args, says) in
        [(&["queue", "peek"][..], "no message waits\n"), (&["queue", "dead"], "there are no dead letters\n")]
    {
        let output = server.tool(args).output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(0), says),
            "{args:?}"
        );
    }
    let status = server.tool(&["status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains("worker   none"));
}
