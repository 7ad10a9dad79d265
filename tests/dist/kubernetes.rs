//! The example for Kubernetes: what its schemas take, what the binary takes, and how many workers it starts.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use crate::{
    aws::{
        emulator,
        stack::{project, succeed},
    },
    support::imgcls,
};

/// Prints a file of Kubernetes objects as JSON after checking them against the schemas; jobs of KEDA as the Jobs that
/// they become.
const CHECK: &str = r#"
import json, sys, yaml
from kubernetes_validate import validate

objects = list(yaml.safe_load_all(open(sys.argv[1])))
for one in objects:
    if one["kind"] == "ScaledJob":
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": one["metadata"]}
        job["spec"] = one["spec"]["jobTargetRef"]
        validate(job, "1.37", strict=True)
    elif not one["apiVersion"].startswith("keda.sh/"):
        validate(one, "1.37", strict=True)
print(json.dumps(objects))
"#;

/// The fields of KEDA's objects that the example may use, by its documentation: a misspelt one would be dropped without
/// a word.
const SCALED_JOB: [&str; 8] = [
    "jobTargetRef",
    "pollingInterval",
    "minReplicaCount",
    "maxReplicaCount",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "scalingStrategy",
    "triggers",
];
const SQS: [&str; 4] = ["queueURL", "awsRegion", "queueLength", "activationQueueLength"];

fn objects() -> Vec<Value> {
    let mut python = Command::new(emulator::programs().join("python"));
    let printed = succeed(python.args(["-c", CHECK]).arg(project("config/kubernetes/imgcls.yaml")));
    serde_json::from_str(&printed).unwrap()
}

fn of<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_example_for_kubernetes_is_what_schemas_and_binary_take() {
    let objects = objects();
    let variables = of(&objects, "ConfigMap")["data"].as_object().unwrap();
    let variables = variables.iter().map(|(name, value)| (name, value.as_str().unwrap()));
    let output = imgcls().arg("config").envs(variables).output().unwrap();
    // An unknown variable would be warned of.
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

    let job = of(&objects, "ScaledJob");
    for pod in
        [&of(&objects, "Deployment")["spec"]["template"]["spec"], &job["spec"]["jobTargetRef"]["template"]["spec"]]
    {
        let container = &pod["containers"][0];
        let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        succeed(imgcls().args(args).arg("--help"));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        // The time that the roles take to end.
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 30);
        // The Service's own variables, IMGCLS_PORT and its like, are not for the binary.
        assert_eq!(pod["enableServiceLinks"], false);
    }
}

/// Jobs of workers run until nothing is left, so that a job that runs goes on being the answer to what waits: KEDA's
/// strategy `accurate` would start as many again at each look.
#[test]
fn jobs_that_run_count_as_the_answer_to_what_waits() {
    let objects = objects();
    let spec = &of(&objects, "ScaledJob")["spec"];
    assert!(keys(spec).is_subset(&SCALED_JOB.into()), "{spec}");
    assert_eq!(spec["scalingStrategy"], serde_json::json!({ "strategy": "default" }));
    let trigger = &spec["triggers"][0];
    assert!(trigger["type"] == "aws-sqs-queue" && keys(&trigger["metadata"]).is_subset(&SQS.into()), "{trigger}");
    let args = &spec["jobTargetRef"]["template"]["spec"]["containers"][0]["args"];
    assert!(args.as_array().unwrap().contains(&"--until-empty".into()), "{args}");
}
