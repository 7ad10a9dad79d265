//! `imgcls scale`: one decision on a local backend, simulations, and every exit code.

use serde_json::Value;

use crate::support::imgcls;

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = imgcls().arg("scale").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn scenario(name: &str) -> String {
    format!("{}/config/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_simulation_compares_the_policies_in_a_table() {
    let (code, table, _) = run(&["--simulate", &scenario("original-own-rate"), "--compare"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(table, @r#"
    the original's burst at our rate: 2,136 messages. 80 images/s on each instance, 60 s to boot, at most 8 instances.

    policy   drained after  p50 wait  p95 wait  p99 wait  instance-minutes    cost  actions  peak
    steps              27s       14s       26s       26s              21.7  0.0042        2     8
    backlog            27s       14s       26s       26s              10.0  0.0019        0     1
    "#);
}

#[test]
fn a_simulation_tells_json_in_the_agreed_shape() {
    let (code, text, _) = run(&["--simulate", &scenario("original-2021"), "--compare", "--json"]);
    assert_eq!(code, Some(0));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["policies"][0]["name"], "steps");
    assert_eq!(report["policies"][1]["name"], "backlog");
    assert_eq!(report["policies"][0]["actions"], 1);
    for key in ["drained_after_s", "instance_minutes"] {
        assert!(report["policies"][0][key].as_f64().unwrap() > 0.0, "{key}");
    }
    for quantile in ["p50", "p95", "p99"] {
        assert!(report["policies"][0]["wait_s"][quantile].as_f64().unwrap() > 0.0, "{quantile}");
    }
    let first = &report["timeline"][0];
    assert_eq!((&first["t_s"], &first["policy"]), (&Value::from(0.0), &Value::from("steps")));
    let depth = first["visible"].as_u64().unwrap() + first["in_flight"].as_u64().unwrap();
    assert_eq!((depth, first["desired"].as_u64(), first["in_service"].as_u64()), (2136, Some(8), Some(1)));
}

#[test]
fn loads_on_the_command_line_need_no_file() {
    for (args, messages) in [
        (vec!["--simulate", "--burst", "5000", "--policy", "backlog"], "a burst: 5,000 messages"),
        (vec!["--burst", "5000", "--worker-rate", "10", "--boot", "30s", "--max", "4"], "a burst: 5,000 messages"),
        (vec!["--rate", "36000/h", "--for", "1m"], "a steady load: "),
    ] {
        let (code, table, stderr) = run(&args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        assert!(table.starts_with(messages), "{args:?}: {table}");
    }
}

#[test]
fn a_chart_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chart.svg");
    let (code, ..) = run(&["--simulate", &scenario("burst"), "--compare", "--svg", file.to_str().unwrap()]);
    let chart = std::fs::read_to_string(&file).unwrap();
    assert_eq!(code, Some(0));
    assert!(chart.starts_with("<svg") && chart.contains("backlog: p95 wait") && chart.contains("steps: p95 wait"));
    assert!(!chart.contains("NaN") && !chart.contains("inf"));
}

#[test]
fn every_scenario_of_the_project_runs() {
    let dir = format!("{}/config/scenarios", env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let (code, table, stderr) = run(&["--simulate", path.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{}: {stderr}", path.display());
        assert!(table.contains("instance-minutes"), "{table}");
    }
}

#[test]
fn bad_scenarios_and_flags_end_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "name = \"x\"\nload = []\n[worker]\nspeed = 3\n").unwrap();
    for (args, want) in [
        (vec!["--simulate", file.to_str().unwrap()], "unknown field `speed`"),
        (vec!["--simulate", "/nonexistent.toml"], "/nonexistent.toml"),
        (vec!["--simulate"], "nothing to simulate"),
        (vec!["--simulate", file.to_str().unwrap(), "--burst", "3"], "leave --burst and --rate out"),
        (vec!["--compare"], "--simulate"),
        (vec!["--max", "3"], "--burst"),
        (vec!["--dry-run", "--for", "5m"], "--rate"),
        (vec!["--rate", "fast"], "not a rate such as 80/s"),
        (vec!["--loop", "30s", "--dry-run"], "cannot be used with"),
        (vec!["--set", "scaling.low=500"], "scaling.low is 500"),
    ] {
        let (code, stdout, stderr) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.contains(want), "{args:?}: {stderr}");
    }
}

#[test]
fn one_decision_on_a_local_backend() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let (code, text, stderr) = run(&["--dry-run", "--json", "--data-dir", data]);
    assert_eq!(code, Some(0), "{stderr}");
    let outcome: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&outcome["action"], &outcome["target"]), (&Value::from("dry-run"), &Value::from(1)));
    let (code, text, _) = run(&["--data-dir", data]);
    assert_eq!((code, text.as_str()), (Some(0), "the queue is empty; nothing to do\n"));
    let (code, text, _) = run(&["--data-dir", data]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("this reading has just been answered"), "{text}");
}

#[test]
fn what_cannot_be_read_ends_with_3_and_what_cannot_be_written_with_4() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let (code, _, stderr) = run(&["--data-dir", file.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{stderr}");
    let (code, _, stderr) = run(&["--burst", "10", "--svg", "/nonexistent/chart.svg"]);
    assert_eq!((code, stderr.contains("/nonexistent/chart.svg")), (Some(4), true), "{stderr}");
}

#[test]
fn a_loop_decides_again_and_again_and_stops_when_told_to() {
    use std::io::{BufRead, BufReader};

    let dir = tempfile::tempdir().unwrap();
    let mut command = imgcls();
    command.args(["scale", "--loop", "1s", "--json", "--data-dir"]).arg(dir.path());
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().take(2).collect::<Result<_, _>>().unwrap();
    assert!(lines.iter().all(|line| line.contains("\"action\":\"nothing\"")), "{lines:?}");
    std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
