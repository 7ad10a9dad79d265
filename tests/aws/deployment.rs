//! The deployment: template, scripts and units are sound, and an emulator of AWS takes them.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{
    emulator, ministack,
    stack::{Account, STACK, project, succeed, text},
};

/// A file that a release may carry as its binary.
fn binary(dir: &Path, contents: &str) -> PathBuf {
    let path = dir.join("imgcls");
    std::fs::write(&path, contents).unwrap();
    path
}

/// The linter of templates has nothing to say, nor has that of scripts.
#[test]
fn the_linters_are_content() {
    let lint = |program: &str| Command::new(emulator::programs().join(program));
    succeed(lint("cfn-lint").arg(project("config/cloudformation/imgcls.yaml")));
    let scripts = ["config/deploy.sh", "config/undeploy.sh", "config/user-data/boot.sh", "tests/aws/emulators.sh"];
    succeed(lint("shellcheck").args(scripts.map(project)));
}

/// systemd understands the units and finds them well confined.
#[test]
fn units_are_sound_and_confined() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("there is no systemd-analyze here; nothing was checked");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::create_dir_all(root.path().join("usr/local/bin")).unwrap();
    std::fs::copy(crate::support::binary(), root.path().join("usr/local/bin/imgcls")).unwrap();
    let copy = |from: &Path| succeed(Command::new("cp").arg("-r").arg(from.join(".")).arg(&units));
    copy(Path::new("/usr/lib/systemd/system"));
    copy(&project("config/systemd"));
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).arg(format!("--root={}", root.path().display()));
        command
    };
    let services = ["imgcls-serve.service", "imgcls-work.service", "imgcls-scale.service"];
    let output = analyze(&["verify", "imgcls-scale.timer"]).args(services).output().unwrap();
    // The system's own units may have complaints of their own.
    let complaints = text(&output.stderr);
    assert!(!complaints.lines().any(|line| line.contains("imgcls")), "{complaints}");
    for service in services {
        let printed = succeed(analyze(&["security", "--offline=true", "--threshold=20"]).arg(service));
        assert!(printed.contains("Overall exposure level"), "{printed}");
    }
}

/// The guide's table of costs is what the script prints.
#[test]
fn costs_are_as_computed() {
    let guide = std::fs::read_to_string(project("config/README.md")).unwrap();
    let table = succeed(&mut Command::new(project("config/costs.py")));
    assert!(table.lines().count() > 5 && guide.contains(&table), "config/costs.py prints\n{table}");
}

/// Runs one of the project's scripts with an `aws` that notes its calls and answers by these arms of a `case`: what the
/// script printed, and the calls.
fn run_with_stub(script: &str, arguments: &[&str], arms: &str) -> (Output, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let (stub, calls) = (dir.path().join("aws"), dir.path().join("calls"));
    let text = format!("#!/bin/bash\necho \"$*\" >>'{}'\ncase \"$*\" in\n{arms}\nesac\n", calls.display());
    std::fs::write(&stub, text).unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(project(script));
    command.args(["--stack", STACK]).args(arguments).env("PATH", path).env("AWS_REGION", "eu-central-1");
    let output = command.output().unwrap();
    (output, std::fs::read_to_string(calls).unwrap().lines().map(str::to_owned).collect())
}

/// Or the parameters of a stack that could not be seen for a moment would change.
#[test]
fn a_deployment_ends_where_nobody_says_whether_there_is_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let binary = binary(dir.path(), "one");
    let arguments = ["--binary", binary.to_str().unwrap()];
    let answer = |said: &str| format!("*describe-stacks*) echo 'An error occurred ({said}' >&2; exit 254 ;;");
    let (output, calls) = run_with_stub("config/deploy.sh", &arguments, &answer("Throttling): Rate exceeded"));
    assert!(!output.status.success() && text(&output.stderr).contains("Rate exceeded"), "{output:?}");
    assert!(calls[calls.len() - 1].contains("describe-stacks"), "{calls:?}");
    let (_, calls) = run_with_stub("config/deploy.sh", &arguments, &answer("ValidationError): it does not exist"));
    let deploys = |call: &&String| call.starts_with("cloudformation deploy");
    let deployed = calls.iter().find(deploys).unwrap();
    assert!(deployed.contains(&format!("TokenParameter=/{STACK}/token")), "{deployed}");
}

/// DynamoDB keeps a backup of a table that is deleted with recovery on.
#[test]
fn recovery_is_off_before_a_table_goes() {
    let arms = "*describe-stacks*) echo id ;;\n\
                *describe-stack-resource*' Table '*) printf 'CREATE_COMPLETE\\tours\\n' ;;\n\
                *describe-stack-resource*) exit 1 ;;";
    let (output, calls) = run_with_stub("config/undeploy.sh", &["--yes"], arms);
    assert!(output.status.success(), "{output:?}");
    let at = |of: &str| calls.iter().position(|call| call.starts_with(of)).unwrap_or_else(|| panic!("{calls:?}"));
    let off = at("dynamodb update-continuous-backups --table-name ours");
    assert!(calls[off].ends_with("PointInTimeRecoveryEnabled=false") && off < at("cloudformation delete-stack"));
}

/// Everything in the template is created; a second deployment changes nothing, a new version only what it must; nothing
/// is left behind after the data's end was agreed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_comes_stays_and_goes() {
    let account = Account::new(ministack().await);
    let dir = tempfile::tempdir().unwrap();
    let at_first = account.belongings();
    // A deployment that was cut short before it created anything leaves this.
    account.aws(&format!(
        "cloudformation create-change-set --stack-name {STACK} --change-set-name first --change-set-type CREATE \
         --template-body {}",
        r#"{"Resources":{"Topic":{"Type":"AWS::SNS::Topic"}}}"#
    ));
    let printed = account.deploy(&binary(dir.path(), "one"), &["AppMax=7"]);
    assert!(printed.contains("page:  http://") && printed.contains("/photos/token"), "{printed}");
    assert!(printed.contains("Nobody reaches the page yet") && printed.contains("AccessCidr="), "{printed}");
    let resources = account.resources();
    for kind in ["S3::Bucket", "SQS::Queue", "AutoScaling::AutoScalingGroup", "EC2::LaunchTemplate", "IAM::Role"] {
        let of_kind = resources.iter().filter(|(of, _)| of == &format!("AWS::{kind}")).count();
        assert_eq!(of_kind, 2, "{kind} in {resources:?}");
    }
    let token = account.aws("ssm get-parameter --with-decryption --name /photos/token");
    let token = token["Parameter"]["Value"].as_str().unwrap().to_owned();
    assert!(token.len() == 48, "{token}");
    let first = ["photos-web", "photos-app"].map(|template| account.user_data(template));
    for (data, role) in first.iter().zip(["web", "app"]) {
        assert!(data.starts_with("#!/bin/bash\n") && data.contains(&format!("ROLE={role}\n")), "{data}");
        assert!(!data.contains(&token), "the token is in the user data");
        let script = dir.path().join(role);
        std::fs::write(&script, data).unwrap();
        succeed(Command::new(emulator::programs().join("shellcheck")).arg(&script));
    }

    let printed = account.deploy(&binary(dir.path(), "one"), &["AppMax=7"]);
    assert!(printed.contains("No changes to deploy"), "{printed}");
    assert_eq!(account.aws("ssm get-parameter --with-decryption --name /photos/token")["Parameter"]["Value"], token);
    let printed = account.deploy(&binary(dir.path(), "two"), &[]);
    assert!(printed.contains("Successfully created/updated stack"), "{printed}");
    assert_eq!(account.resources(), resources);
    let group = account.aws("autoscaling describe-auto-scaling-groups --auto-scaling-group-names photos-app");
    assert_eq!(group["AutoScalingGroups"][0]["MaxSize"], 7, "a parameter of before stays");
    assert_ne!(["photos-web", "photos-app"].map(|template| account.user_data(template)), first);

    let bucket = format!("photos-images-{}-eu-central-1", account.id);
    let photo = dir.path().join("one");
    std::fs::write(&photo, "a photo").unwrap();
    account.aws(&format!("s3api put-object --bucket {bucket} --key in/a.jpg --body {}", photo.display()));
    let refused = account.undeploy(&[], "no");
    let asked = text(&refused.stdout);
    assert!(!refused.status.success() && asked.contains("1 objects, the images"), "{asked}");
    assert_eq!(account.resources(), resources);
    let gone = account.undeploy(&[], STACK);
    assert!(gone.status.success(), "{}{}", text(&gone.stdout), text(&gone.stderr));
    assert_eq!(account.belongings(), at_first);
}

/// With a domain, alarms as the scaler, spot capacity and all else that can be asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_choice_of_the_template_is_taken() {
    let account = Account::new(ministack().await);
    let dir = tempfile::tempdir().unwrap();
    let zone = account.aws("route53 create-hosted-zone --name example.com --caller-reference test");
    let zone = zone["HostedZone"]["Id"].as_str().unwrap().trim_start_matches("/hostedzone/").to_owned();
    let zone = format!("HostedZoneId={zone}");
    account.aws("ssm put-parameter --name /photos/admin --type SecureString --value other");
    // It begins without a name. A port takes one listener, so that of plain HTTP must stay when the name comes and
    // goes.
    account.deploy(&binary(dir.path(), "one"), &["TokenParameter=/photos/mine"]);
    let plain = account.physical_id("PlainListener");
    account.deploy(
        &binary(dir.path(), "one"),
        &[
            "DomainName=photos.example.com",
            &zone,
            "Scaler=alarms",
            "Spot=yes",
            "KeepImagesDays=30",
            "TokenParameter=/photos/mine",
            "AdminTokenParameter=/photos/admin",
            "AlarmEmail=me@example.com",
        ],
    );
    let resources = account.resources();
    for name in ["Certificate", "PlainListener", "SecureListener", "DomainRecord", "ScaleOut", "DepthLow"] {
        assert!(resources.iter().any(|(_, of)| of == name), "{name} in {resources:?}");
    }
    assert!(account.user_data("photos-web").contains("PUBLIC_HOSTS=photos.example.com\n"));
    assert_eq!((account.listeners(), account.physical_id("PlainListener")), (vec![80, 443], plain.clone()));
    let printed = account.deploy(&binary(dir.path(), "one"), &[]);
    assert!(printed.contains("No changes to deploy") && printed.contains("/photos/mine"), "{printed}");
    assert!(!printed.contains("Nobody reaches"), "{printed}");
    account.deploy(&binary(dir.path(), "one"), &["DomainName=", "HostedZoneId="]);
    assert_eq!((account.listeners(), account.physical_id("PlainListener")), (vec![80], plain));
    account.deploy(&binary(dir.path(), "one"), &["DomainName=photos.example.com", &zone]);
    let gone = account.undeploy(&["--yes"], "");
    assert!(gone.status.success(), "{}{}", text(&gone.stdout), text(&gone.stderr));
    assert!(text(&gone.stdout).contains("validated its certificate stays"), "{}", text(&gone.stdout));
}
