//! The stack that the template describes, deployed on an emulator by the project's own scripts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use super::{
    emulator,
    system::{Names, System},
};

/// The stack's name in these tests.
pub(crate) const STACK: &str = "photos";

/// A file or directory of the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must go well: its standard output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// An account on the emulator, and the AWS CLI on it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) endpoint: String,
}

impl Account {
    /// A fresh account on the emulator at `endpoint`.
    pub(crate) fn new(endpoint: &str) -> Self {
        Self { id: emulator::account(), endpoint: endpoint.to_owned() }
    }

    /// A program of the project or of the emulators with this account.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let path = std::env::join_paths(
            std::iter::once(emulator::programs().to_owned())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        command
            .env("PATH", path.unwrap())
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_DEFAULT_REGION", "eu-central-1")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// What the AWS CLI answers.
    pub(crate) fn aws(&self, arguments: &str) -> Value {
        let mut command = self.command(Path::new("timeout"));
        command.arg("120").arg(emulator::programs().join("aws"));
        command.args(["--endpoint-url", &self.endpoint, "--output", "json"]).args(arguments.split(' '));
        let printed = succeed(&mut command);
        if printed.trim().is_empty() { Value::Null } else { serde_json::from_str(&printed).unwrap() }
    }

    pub(crate) fn deploy(&self, binary: &Path, parameters: &[&str]) -> String {
        let mut command = self.command(Path::new("timeout"));
        succeed(
            command
                .arg("600")
                .arg(project("config/deploy.sh"))
                .args(["--stack", STACK, "--binary"])
                .arg(binary)
                .args(parameters),
        )
    }

    pub(crate) fn undeploy(&self, arguments: &[&str], answer: &str) -> Output {
        let mut command = self.command(Path::new("timeout"));
        command.arg("600").arg(project("config/undeploy.sh")).args(["--stack", STACK]).args(arguments);
        let script = format!("printf '{answer}\\n' | \"$@\"");
        let mut shell = self.command(Path::new("sh"));
        shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.output().unwrap()
    }

    /// Names of all that a deployment could leave behind.
    pub(crate) fn belongings(&self) -> Vec<String> {
        let names = |arguments: &str, list: &str, name: &str| -> Vec<String> {
            let answer = self.aws(arguments);
            let items = answer[list].as_array().cloned().unwrap_or_default();
            let of = |item: &Value| match name {
                "" => item.as_str().unwrap().to_owned(),
                _ => item[name].as_str().unwrap_or_else(|| panic!("no {name} in {item}")).to_owned(),
            };
            items.iter().map(of).collect()
        };
        let buckets = names("s3api list-buckets", "Buckets", "Name");
        [
            buckets.into_iter().filter(|name| name.contains(&self.id)).collect(),
            names("sqs list-queues", "QueueUrls", ""),
            names("dynamodb list-tables", "TableNames", ""),
            names("autoscaling describe-auto-scaling-groups", "AutoScalingGroups", "AutoScalingGroupName"),
            names("ec2 describe-launch-templates", "LaunchTemplates", "LaunchTemplateName"),
            names("ec2 describe-vpcs --filters Name=is-default,Values=false", "Vpcs", "VpcId"),
            names("elbv2 describe-load-balancers", "LoadBalancers", "LoadBalancerName"),
            names("iam list-roles", "Roles", "RoleName"),
            names("iam list-instance-profiles", "InstanceProfiles", "InstanceProfileName"),
            names("logs describe-log-groups", "logGroups", "logGroupName"),
            names("cloudwatch describe-alarms", "MetricAlarms", "AlarmName"),
            names("cloudwatch list-dashboards", "DashboardEntries", "DashboardName"),
            names("sns list-topics", "Topics", "TopicArn"),
            names("acm list-certificates", "CertificateSummaryList", "DomainName"),
            names("ssm describe-parameters", "Parameters", "Name"),
            names("cloudformation describe-stacks", "Stacks", "StackName"),
        ]
        .concat()
    }

    /// The types and names of the stack's resources, all of which must be there.
    pub(crate) fn resources(&self) -> Vec<(String, String)> {
        let answer = self.aws(&format!("cloudformation list-stack-resources --stack-name {STACK}"));
        let resources = answer["StackResourceSummaries"].as_array().unwrap();
        let of = |resource: &Value, key: &str| resource[key].as_str().unwrap().to_owned();
        let mut all = Vec::new();
        for resource in resources {
            let status = of(resource, "ResourceStatus");
            assert!(matches!(status.as_str(), "CREATE_COMPLETE" | "UPDATE_COMPLETE"), "{resource}");
            all.push((of(resource, "ResourceType"), of(resource, "LogicalResourceId")));
        }
        all
    }

    /// The id of one of the stack's resources, which is another one if the resource was replaced.
    pub(crate) fn physical_id(&self, resource: &str) -> String {
        let answer = self.aws(&format!(
            "cloudformation describe-stack-resource --stack-name {STACK} --logical-resource-id {resource}"
        ));
        answer["StackResourceDetail"]["PhysicalResourceId"].as_str().unwrap().to_owned()
    }

    /// The ports of the load balancer, in order.
    pub(crate) fn listeners(&self) -> Vec<u64> {
        let balancer = self.physical_id("Balancer");
        let answer = self.aws(&format!("elbv2 describe-listeners --load-balancer-arn {balancer}"));
        let mut ports: Vec<_> =
            answer["Listeners"].as_array().unwrap().iter().map(|l| l["Port"].as_u64().unwrap()).collect();
        ports.sort_unstable();
        ports
    }

    /// The user data of the newest version of a launch template.
    pub(crate) fn user_data(&self, template: &str) -> String {
        let answer = self.aws(&format!(
            "ec2 describe-launch-template-versions --launch-template-name {template} --versions $Latest"
        ));
        let data = &answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]["UserData"];
        succeed(Command::new("sh").args(["-c", "printf %s \"$1\" | base64 -d", "sh", data.as_str().unwrap()]))
    }

    /// An output of the stack.
    pub(crate) fn output(&self, name: &str) -> String {
        let stacks = self.aws(&format!("cloudformation describe-stacks --stack-name {STACK}"));
        let outputs = stacks["Stacks"][0]["Outputs"].as_array().unwrap();
        let output = outputs.iter().find(|output| output["OutputKey"] == name).unwrap();
        output["OutputValue"].as_str().unwrap().to_owned()
    }

    /// The token of the page.
    pub(crate) fn token(&self) -> String {
        let answer = self.aws(&format!("ssm get-parameter --with-decryption --name /{STACK}/token"));
        answer["Parameter"]["Value"].as_str().unwrap().to_owned()
    }

    /// The stack as a system of processes that talk to `endpoint`.
    pub(crate) async fn system(&self, endpoint: &str) -> System {
        let mut system = System::of(self.id.clone(), &self.endpoint, endpoint).await;
        let queue = self.output("QueueUrl");
        system.names = Names {
            bucket: self.output("ImagesBucket"),
            output_bucket: self.output("OutputsBucket"),
            queue: queue.rsplit('/').next().unwrap().to_owned(),
            table: self.output("TableName"),
        };
        system
    }
}

/// The configuration that user data writes for the service.
pub(crate) fn settings(user_data: &str) -> BTreeMap<String, String> {
    let (_, rest) = user_data.split_once("imgcls.env <<'END'\n").unwrap();
    let (lines, _) = rest.split_once("\nEND\n").unwrap();
    lines.lines().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}
