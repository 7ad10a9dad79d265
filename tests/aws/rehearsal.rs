//! The rehearsal of a deployment: the stack on the emulator, its user data run in namespaces as instances, images
//! through the page, scaling by the timer of the web tier, and what can happen to a fleet meanwhile.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::{
    machines::{Facts, Machines, Size, metadata},
    ministack,
    permissions::client,
    pictures,
    stack::{Account, STACK, project, succeed, text},
    system::{Role, System},
};
use crate::support::{DEADLINE, client_builder, eventually, upload};

/// How large a rehearsal is.
#[derive(Debug, Clone, Copy)]
struct Script {
    images: usize,
    max: i32,
    /// Whether an instance is interrupted and a new version deployed in the middle, besides one that is killed.
    is_full: bool,
}

/// One look at the system.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at_s: f64,
    waiting: u64,
    done: u64,
    desired: i32,
    running: usize,
}

/// What the instances are made of.
struct Machinery {
    account: Account,
    dir: tempfile::TempDir,
    /// The user data of the app tier as it is now.
    app: Arc<Mutex<PathBuf>>,
}

impl Machinery {
    /// An instance that runs this user data, with these services around it.
    fn instance(&self, id: &str, user_data: &Path, metadata: &str, auto_scaling: &str) -> Command {
        instance(&self.account, &self.dir.path().join(id), user_data, metadata, auto_scaling)
    }

    /// Deploys this version of the binary and takes its user data.
    fn deploy(&self, version: &str, script: Script) {
        let binary = self.dir.path().join("imgcls");
        // Debug information is no part of a release.
        succeed(Command::new("strip").arg("-o").arg(&binary).arg(crate::support::binary()));
        // What follows the end of an executable changes its hash and nothing else.
        let mut bytes = std::fs::read(&binary).unwrap();
        bytes.extend_from_slice(version.as_bytes());
        std::fs::write(&binary, bytes).unwrap();
        self.account.deploy(&binary, &["ScalingPolicy=steps", &format!("AppMax={}", script.max)]);
        let path = self.dir.path().join(format!("app-{version}"));
        std::fs::write(&path, self.account.user_data(&format!("{STACK}-app"))).unwrap();
        *self.app.lock().unwrap() = path;
    }
}

fn instance(account: &Account, dir: &Path, user_data: &Path, metadata: &str, auto_scaling: &str) -> Command {
    std::fs::create_dir_all(dir).unwrap();
    let mut command = account.command(Path::new("unshare"));
    // Who is not root may be so in a namespace of users.
    if succeed(Command::new("id").arg("-u")).trim() != "0" {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(project("tests/aws/instance/run.sh"))
        .arg(dir)
        .arg(user_data)
        .env_remove("AWS_EC2_METADATA_DISABLED")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
        .env("AWS_ENDPOINT_URL_AUTO_SCALING", auto_scaling)
        .env("INSTANCE_TIMER", "1")
        .env(
            "INSTANCE_SETTINGS",
            // Ports are chosen by the system, times are shorter than a minute, and all machines share this one's cores.
            "IMGCLS_WEB_LISTEN=127.0.0.1:0 IMGCLS_WORKER_THREADS=1 IMGCLS_WORKER_RECEIVERS=4 \
             IMGCLS_SCALING_INTERVAL=1s \
             IMGCLS_SCALING_COOLDOWN_OUT=1s IMGCLS_SCALING_COOLDOWN_IN=2s IMGCLS_SCALING_WARMUP=5s",
        );
    command
}

/// The web tier's one instance, with the address of its page.
async fn web(machinery: &Machinery, system: &System, auto_scaling: &str) -> (Role, String) {
    let user_data = machinery.dir.path().join("web-data");
    std::fs::write(&user_data, machinery.account.user_data(&format!("{STACK}-web"))).unwrap();
    let metadata = metadata("i-web".to_owned(), Arc::<Mutex<Facts>>::default()).await;
    let mut role = system.start(machinery.instance("i-web", &user_data, &metadata, auto_scaling), Stdio::null());
    let dir = machinery.dir.path().join("i-web");
    let url = eventually("the page", async || {
        assert!(role.is_running(), "{}{}", role.log(), boot_log(&dir));
        let printed = std::fs::read_to_string(dir.join("imgcls-serve.service.out")).ok()?;
        Some(printed.lines().next()?.strip_prefix("listening on ")?.to_owned())
    });
    let url = url.await;
    (role, url)
}

fn boot_log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("boot.log")).unwrap_or_default()
}

/// What happens to the fleet in the middle, each once.
struct Events {
    script: Script,
    killed: Option<String>,
    interrupted: Option<String>,
    /// Instances of the version before, which are replaced one after the other.
    old: Option<Vec<String>>,
}

impl Events {
    async fn happen(&mut self, sample: Sample, machinery: &Machinery, machines: &mut Machines<'_>) {
        let share = sample.done * 100 / self.script.images as u64;
        let ids = machines.ids();
        if self.killed.is_none() && share >= 15 && ids.len() > 1 {
            println!("{:>5.1} s: the plug of {} is pulled", sample.at_s, ids[0]);
            machines.kill(&ids[0]).await;
            self.killed = Some(ids[0].clone());
        } else if self.script.is_full && self.interrupted.is_none() && share >= 35 && !ids.is_empty() {
            let id = ids[ids.len() - 1].clone();
            println!("{:>5.1} s: the spot capacity of {id} is taken", sample.at_s);
            machines.interrupt(&id);
            self.interrupted = Some(id);
        } else if self.script.is_full && self.old.is_none() && share >= 50 {
            println!("{:>5.1} s: a new version is deployed", sample.at_s);
            machinery.deploy("2", self.script);
            self.old = Some(ids);
        } else if let Some(id) = self.old.as_mut().and_then(Vec::pop).filter(|id| ids.contains(id)) {
            println!("{:>5.1} s: {id} is replaced by one of the new version", sample.at_s);
            machines.take(&id).await;
        }
    }
}

async fn sample(started: Instant, system: &System, machines: &Machines<'_>, api: &Value) -> Sample {
    let (visible, in_flight) = system.depth(&system.names.queue).await;
    Sample {
        at_s: started.elapsed().as_secs_f64(),
        waiting: visible + in_flight,
        done: api["results"]["total"].as_u64().unwrap(),
        desired: machines.desired().await,
        running: machines.running(),
    }
}

/// Rehearses: deploy, upload, grow from zero, what happens, shrink to zero, reset, undeploy.
async fn rehearse(script: Script) -> Vec<Sample> {
    let ministack = ministack().await;
    let account = Account::new(ministack);
    let at_first = account.belongings();
    let dir = tempfile::tempdir().unwrap();
    let machinery = Machinery { account, dir, app: Arc::default() };
    machinery.deploy("1", script);
    let system = machinery.account.system(ministack).await;
    let launch = {
        let (account, app) = (machinery.account.clone(), Arc::clone(&machinery.app));
        let dir = machinery.dir.path().to_owned();
        move |id: &str, metadata: &str, auto_scaling: &str| {
            instance(&account, &dir.join(id), &app.lock().unwrap(), metadata, auto_scaling)
        }
    };
    let size = Size { min: 0, max: script.max, desired: 0 };
    let mut machines = Machines::group(&system, &format!("{STACK}-app"), size, Some(Box::new(launch))).await;
    let (_web, url) = web(&machinery, &system, machines.auto_scaling_url()).await;
    assert_eq!(
        client_builder().build().unwrap().get(format!("{url}/results")).send().await.unwrap().status(),
        401,
        "the token of SSM guards the page"
    );
    let client = client(&machinery.account.token());

    let pictures = pictures();
    let labels = system.labels(&pictures);
    let started = Instant::now();
    let uploads = tokio::spawn(upload_all(client.clone(), url.clone(), pictures, script.images));
    let mut events = Events { script, killed: None, interrupted: None, old: None };
    let mut samples = Vec::new();
    let status =
        async || -> Value { client.get(format!("{url}/api/status")).send().await.unwrap().json().await.unwrap() };
    loop {
        let instances = machines.follow().await;
        let now = sample(started, &system, &machines, &status().await).await;
        samples.push(now);
        events.happen(now, &machinery, &mut machines).await;
        let nobody_is_left = now.waiting == 0 && instances == 0 && machines.running() == 0;
        // What a killed machine had done since its last heartbeat is in no total, but it is done.
        if nobody_is_left && uploads.is_finished() && system.rows().await.len() == script.images {
            break;
        }
        assert!(started.elapsed() < 2 * DEADLINE, "{now:?}, {instances} instances");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{:>5.1} s: all is done, and nobody is left", started.elapsed().as_secs_f64());
    uploads.await.unwrap();

    assert!(samples.iter().any(|sample| sample.running as i32 == script.max), "the fleet never grew to {}", script.max);
    assert!(events.killed.is_some() && (events.interrupted.is_some() && events.old.is_some() || !script.is_full));
    let rows = system.rows().await;
    assert_eq!(rows.len(), script.images);
    for i in 0..script.images {
        assert_eq!(rows[&format!("{i}.png")].as_ref(), Ok(&labels[i % labels.len()]));
    }
    let outputs: BTreeSet<String> = system.keys(&system.output_bucket()).await.into_iter().collect();
    assert_eq!(outputs.len(), script.images, "an output for each image, and no second one");
    assert_eq!(system.depth(&format!("{}-dead", system.names.queue)).await, (0, 0));
    let agent: Value =
        serde_json::from_slice(&std::fs::read(machinery.dir.path().join("i-web/agent.json")).unwrap()).unwrap();
    let collected = &agent["logs"]["logs_collected"]["journald"]["collect_list"][0];
    assert_eq!(collected["log_group_name"], format!("/imgcls/{STACK}/web"), "{agent}");
    assert_eq!(collected["units"][1], "imgcls-scale.service", "{agent}");

    let answer = client.post(format!("{url}/reset")).header("accept", "application/json").send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    assert!(system.rows().await.is_empty() && system.keys(&system.bucket()).await.is_empty());
    let gone = machinery.account.undeploy(&["--yes"], "");
    assert!(gone.status.success(), "{}{}", text(&gone.stdout), text(&gone.stderr));
    assert_eq!(machinery.account.belongings(), at_first);
    samples
}

/// Uploads all images through the page, some requests at a time.
async fn upload_all(client: reqwest::Client, url: String, pictures: Vec<Vec<u8>>, images: usize) {
    let requests = (0..images).step_by(40).map(|start| {
        let files =
            (start..(start + 40).min(images)).map(|i| (format!("{i}.png"), pictures[i % pictures.len()].clone()));
        let (client, url, files) = (client.clone(), url.clone(), files.collect::<Vec<_>>());
        async move {
            let stored = upload(&client, &url, files).await;
            assert!(stored.iter().all(|entry| entry["image"] == entry["file"]), "{stored:?}");
        }
    });
    stream::iter(requests).buffer_unordered(4).collect::<()>().await;
}

/// A small one: the fleet grows from zero, loses a machine, and shrinks to zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rehearsed() {
    rehearse(Script { images: 300, max: 2, is_full: false }).await;
}

/// The original's largest run, with everything that can happen to a fleet; draws the chart of the README.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; make rehearse runs it"]
async fn the_originals_largest_run_is_rehearsed() {
    let samples = rehearse(Script { images: 2136, max: 8, is_full: true }).await;
    let per_minute = images_per_minute(&samples);
    let peak = per_minute.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let fleet = samples.iter().map(|sample| sample.running).max().unwrap_or(0);
    let done = samples.iter().rfind(|sample| sample.waiting > 0).unwrap();
    println!("2136 images in {:.0} s, at most {fleet} workers and {peak:.0} images a minute", done.at_s);
    std::fs::write(project("assets/charts/rehearsal.svg"), chart(&samples)).unwrap();
}

/// Images a minute over the last ten seconds, at each sample.
fn images_per_minute(samples: &[Sample]) -> Vec<(f64, f64)> {
    let rate = |(i, now): (usize, &Sample)| {
        let before = samples[..=i].iter().find(|then| now.at_s - then.at_s <= 10.0).unwrap();
        let span = now.at_s - before.at_s;
        (now.at_s, if span > 0.0 { (now.done - before.done) as f64 / span * 60.0 } else { 0.0 })
    };
    samples.iter().enumerate().map(rate).collect()
}

/// The original's readings of its queue in its largest run, every 30 seconds from the first one on.
const ORIGINAL: [u64; 8] = [2136, 1998, 1741, 1305, 1000, 812, 509, 275];

/// What a curve is, its colour, and its points: seconds and values.
type Curve = (&'static str, &'static str, Vec<(f64, f64)>);

/// The curves of a rehearsal as SVG: depth beside the original's, fleet, images a minute.
fn chart(samples: &[Sample]) -> String {
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 150.0;
    let ends_s = samples.last().map_or(1.0, |sample| sample.at_s).max(30.0 * (ORIGINAL.len() - 1) as f64);
    let depth = samples.iter().map(|s| (s.at_s, s.waiting as f64)).collect::<Vec<_>>();
    let original = ORIGINAL.iter().enumerate().map(|(i, n)| (30.0 * i as f64, *n as f64)).collect::<Vec<_>>();
    let desired = samples.iter().map(|s| (s.at_s, f64::from(s.desired))).collect::<Vec<_>>();
    let running = samples.iter().map(|s| (s.at_s, s.running as f64)).collect::<Vec<_>>();
    let rate = images_per_minute(samples);
    let panels: [(&str, [Curve; 2]); 3] = [
        ("messages", [("the original, March 2021", "#c44", original), ("rehearsal", "#26c", depth)]),
        ("workers", [("desired", "#999", desired), ("running", "#26c", running)]),
        (
            "images a minute",
            [("the original's peak: 872", "#c44", vec![(0.0, 872.0), (ends_s, 872.0)]), ("rehearsal", "#26c", rate)],
        ),
    ];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        WIDTH + 90.0,
        3.0 * (HEIGHT + 50.0) + 20.0
    );
    for (i, (title, curves)) in panels.iter().enumerate() {
        let top = 30.0 + i as f64 * (HEIGHT + 50.0);
        let most = curves.iter().flat_map(|(_, _, points)| points).map(|(_, y)| *y).fold(1.0, f64::max);
        svg += &format!(
            "<text x=\"60\" y=\"{}\" font-weight=\"bold\">{title}</text>\n\
             <path d=\"M60 {top}V{}H{}\" fill=\"none\" stroke=\"#333\"/>\n\
             <text x=\"54\" y=\"{}\" text-anchor=\"end\">{most:.0}</text>\
             <text x=\"54\" y=\"{}\" text-anchor=\"end\">0</text>\n",
            top - 10.0,
            top + HEIGHT,
            60.0 + WIDTH,
            top + 10.0,
            top + HEIGHT
        );
        for (j, (name, colour, points)) in curves.iter().enumerate() {
            let at = |(x, y): &(f64, f64)| {
                format!("{:.1},{:.1}", 60.0 + x / ends_s * WIDTH, top + HEIGHT * (1.0 - y / most))
            };
            let points: Vec<String> = points.iter().map(at).collect();
            svg += &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>\n",
                points.join(" "),
                60.0 + WIDTH,
                top - 10.0 + 15.0 * j as f64
            );
        }
        for second in (0..=ends_s as u64).step_by(30) {
            let x = 60.0 + second as f64 / ends_s * WIDTH;
            svg +=
                &format!("<text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>\n", top + HEIGHT + 16.0);
        }
    }
    svg + "</svg>\n"
}
