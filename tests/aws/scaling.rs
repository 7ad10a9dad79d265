//! The fleet from end to end: a queue, a group, real workers as its instances, and `imgcls scale` run again and again.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use serde_json::Value;

use super::{
    machines::{DENIED, IN_PROGRESS, Machines},
    ministack, pictures,
    system::System,
};
use crate::support::{DEADLINE, eventually};

/// One run of `imgcls scale --json`: its exit code, standard output and log.
async fn run(machines: &Machines<'_>) -> (Option<i32>, String, String) {
    let mut command = machines.tool(&["scale", "--json"]);
    for (key, value) in [("INTERVAL", "1s"), ("COOLDOWN_OUT", "1s"), ("COOLDOWN_IN", "2s"), ("WARMUP", "5s")] {
        command.env(format!("IMGCLS_SCALING_{key}"), value);
    }
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// One run that must go well: what it printed, and its log.
async fn scale(machines: &Machines<'_>) -> (Value, String) {
    let (code, printed, log) = run(machines).await;
    assert_eq!(code, Some(0), "{log}");
    (serde_json::from_str(&printed).unwrap(), log)
}

/// A cron job knows by the exit code what to do about it, and a change that was not made is made the next time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_what_the_group_said() {
    let system = System::new(ministack().await, ministack().await).await;
    let machines = Machines::new(&system, 4).await;
    for i in 0..100 {
        system.put(&format!("{i}.png"), b"not looked at").await;
    }
    machines.answer("AutoScaling.SetDesiredCapacity", StatusCode::BAD_REQUEST, IN_PROGRESS);
    assert_eq!(scale(&machines).await.0["action"], "in-progress");
    machines.answer("AutoScaling.SetDesiredCapacity", StatusCode::FORBIDDEN, DENIED);
    let (code, printed, log) = run(&machines).await;
    assert_eq!((code, printed.as_str()), (Some(4), ""), "{log}");
    assert!(log.contains("desired capacity to 3") && log.contains("autoscaling:SetDesiredCapacity"), "{log}");
    machines.answer("AutoScaling.DescribeAutoScalingGroups", StatusCode::FORBIDDEN, DENIED);
    let (code, _, log) = run(&machines).await;
    assert_eq!((code, log.contains("autoscaling:DescribeAutoScalingGroups")), (Some(3), true), "{log}");
    machines.answer("", StatusCode::OK, "");
    let outcome = scale(&machines).await.0;
    assert_eq!((&outcome["action"], &outcome["target"]), (&Value::from("scaled"), &Value::from(3)), "{outcome}");
    let mut command = machines.tool(&["scale"]);
    let output = command.env("IMGCLS_AWS_AUTO_SCALING_GROUP", "").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), log.contains("aws.auto_scaling_group")), (Some(2), true), "{log}");
}

/// 1,500 images: out by the rules, in when all is done, and images that arrive while machines are taken away are done
/// as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_follows_its_queue_out_and_in_and_loses_nothing() {
    const IMAGES: usize = 1500;
    const LATE: usize = 80;
    let started = Instant::now();
    let system = System::new(ministack().await, ministack().await).await;
    let mut machines = Machines::new(&system, 4).await;
    let pictures = pictures();
    let labels = system.labels(&pictures);
    let put = async |range: std::ops::Range<usize>| {
        for i in range {
            system.put(&format!("{i}.png"), &pictures[i % pictures.len()]).await;
        }
    };

    // The first machine boots while the images arrive, so that what the policy sees is no matter of speed.
    put(0..150).await;
    let (first, _) = scale(&machines).await;
    assert_eq!(first["reason"], "150 messages wait, 100 or more call for 2 workers more: from 1 to 3 workers");
    put(150..IMAGES).await;
    let (second, _) = scale(&machines).await;
    assert_eq!(
        second["reason"],
        "1500 messages wait, 1000 or more call for 15 workers more: from 3 to 4 workers, the most allowed"
    );
    assert_eq!(machines.follow().await, 4);

    let mut story = vec![first, second];
    let mut told_of_protection = false;
    let deadline = Instant::now() + DEADLINE;
    let mut late = 0;
    loop {
        let (outcome, log) = scale(&machines).await;
        told_of_protection |= log.contains("each leaves as it finishes");
        // Runs may come faster than readings.
        let counts = !outcome["reason"].as_str().unwrap().starts_with("this reading has just been answered");
        if counts && outcome["reason"] != story[story.len() - 1]["reason"] {
            println!("{:>4.1?} {}", started.elapsed(), outcome["reason"].as_str().unwrap());
            story.push(outcome);
        }
        let instances = machines.follow().await;
        if instances == 1 && late == 0 {
            // Those that were taken away have not heard of it yet, and still ask the queue for work.
            println!("{:>4.1?} three machines are taken away", started.elapsed());
            late = LATE;
            put(IMAGES..IMAGES + late).await;
        }
        if late > 0 && machines.running() == 1 && system.depth("images").await == (0, 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{instances} instances, {}: {story:#?}", machines.running());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    println!("{:>4.1?} all is done, and they have ended", started.elapsed());
    assert!(told_of_protection, "a fleet that is protected and too large is told of");
    let number = |outcome: &Value, key: &str| outcome[key].as_u64().unwrap();
    let changes: Vec<_> = story.iter().filter(|outcome| outcome["action"] == "scaled").collect();
    assert!(changes.len() >= 3, "{story:#?}");
    for change in &changes[2..] {
        assert!(number(change, "target") < number(change, "from"), "{change}");
        assert!(number(change, "target") >= number(change, "busy"), "{change}");
    }
    assert_eq!(number(changes[changes.len() - 1], "target"), 1);

    let (taken, completed) = machines.departures();
    assert_eq!((taken.len(), &completed), (3, &taken), "each said that it was drained");
    let rows = system.rows().await;
    assert_eq!(rows.len(), IMAGES + LATE);
    for i in 0..IMAGES + LATE {
        assert_eq!(rows[&format!("{i}.png")].as_ref(), Ok(&labels[i % labels.len()]));
    }
    let outputs: BTreeSet<String> = system.keys(&system.output_bucket()).await.into_iter().collect();
    assert_eq!(outputs.len(), IMAGES + LATE);
    assert_eq!(system.depth("images-dead").await, (0, 0));
    // No image was done twice: so many results did the four workers store, by their own count.
    let done = eventually("the last heartbeat", async || {
        let done = system.done().await;
        (done.values().sum::<u64>() >= (IMAGES + LATE) as u64).then_some(done)
    });
    let done = done.await;
    println!("{done:?}");
    assert_eq!((done.len(), done.values().sum::<u64>()), (4, (IMAGES + LATE) as u64), "{done:?}");
}
