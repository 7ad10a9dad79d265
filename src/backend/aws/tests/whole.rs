//! All of it: reset, setup, what cannot work, and the group.

use super::*;

#[tokio::test]
async fn a_reset_removes_what_was_and_discards_what_was_asked_for() {
    let system = System::new("").await;
    let Backend { images, outputs, queue, results, reset, .. } = &system.backend;
    for i in 0..3u8 {
        images.put(&system.upload(&format!("{i}.png"), &[i])).await.unwrap();
        results.put(&result(&format!("{i}.png"), "cat", None), None).await.unwrap();
        outputs.put(&format!("{i}.png_cat"), b"{}".to_vec()).await.unwrap();
    }
    let old = result("late.png", "cat", None);
    let removed = Tally::default();
    reset.reset(&removed).await.unwrap();
    let report = removed.report();
    assert_eq!((report.images, report.outputs, report.messages, report.results), (3, 3, 3, 3));
    assert_eq!(results.put(&old, None).await.unwrap(), Written::Gone);
    assert_eq!(results.page(&PageQuery { limit: 10, ..PageQuery::default() }).await.unwrap().results, []);
    assert!(images.list(None, 10).await.unwrap().is_empty());
    images.put(&system.upload("new.png", b"new")).await.unwrap();
    assert_eq!(system.receive(1).await.len(), 1);
    assert_eq!(results.put(&result("new.png", "dog", None), None).await.unwrap(), Written::Stored);
    assert_eq!(queue.depth().await.unwrap().visible, 0);
}

#[tokio::test]
async fn setup_is_idempotent_and_keeps_what_others_configured() {
    let system = System::new("in/").await;
    let steps = set_up(&system.clients, &system.config, false).await;
    assert!(steps.iter().all(|step| step.action == Action::Kept), "{steps:?}");
    // A dry run does not write the probe.
    assert_eq!(set_up(&system.clients, &system.config, true).await.len() + 1, steps.len());
    // Another prefix of the same bucket gets a notification of its own.
    let config = Aws { prefix: "more/".into(), ..system.config.clone() };
    set_up(&system.clients, &config, false).await;
    let s3 = &system.clients.s3;
    let got = s3.get_bucket_notification_configuration().bucket(&config.bucket).send().await.unwrap();
    assert_eq!(got.queue_configurations().len(), 2);
}

#[tokio::test]
async fn what_is_missing_or_cannot_work_is_refused_with_the_way_out() {
    let system = System::new("").await;
    let open = async |config: Aws| open_with(system.clients.clone(), &config).await.unwrap_err();
    let error = open(Aws { table: "none".into(), ..system.config.clone() }).await;
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("imgcls setup"), "{error}");
    let error = open(Aws { queue_url: "none".into(), ..system.config.clone() }).await;
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("imgcls setup"), "{error}");
    let fifo = system.clients.sqs.create_queue().queue_name("q.fifo");
    let fifo = fifo.attributes(QueueAttributeName::FifoQueue, "true").send().await.unwrap();
    let error = open(Aws { queue_url: fifo.queue_url.unwrap(), ..system.config.clone() }).await;
    assert!(error.to_string().contains("FIFO"), "{error}");
}

#[tokio::test]
async fn the_group_is_observed_and_its_bounds_are_kept() {
    let moto = tokio::task::spawn_blocking(emulator::Emulator::moto).await.unwrap();
    let config = Aws { endpoint_url: Some(moto.url.clone()), ..Aws::default() };
    let clients = Clients::of_emulator(&config, &emulator::account()).await;
    let group = &clients.autoscaling;
    let launch = group.create_launch_configuration().launch_configuration_name("l").image_id("ami-12c6146b");
    launch.instance_type("t2.micro").send().await.unwrap();
    let create = group.create_auto_scaling_group().auto_scaling_group_name("app").launch_configuration_name("l");
    let create = create.min_size(1).max_size(4).desired_capacity(2).availability_zones("eu-central-1a");
    create.new_instances_protected_from_scale_in(true).send().await.unwrap();
    let fleet = AutoScalingFleet::new(group.clone(), "app");
    let state = fleet.observe().await.unwrap();
    assert_eq!((state.min, state.max, state.desired, state.in_service, state.protected), (1, 4, 2, 2, 2));
    fleet.set_desired(99).await.unwrap();
    assert_eq!(fleet.observe().await.unwrap().desired, 4);
    fleet.set_desired(0).await.unwrap();
    assert_eq!(fleet.observe().await.unwrap().desired, 1);
    let none = AutoScalingFleet::new(group.clone(), "");
    assert_eq!(none.observe().await.unwrap().desired, 0);
    assert!(none.set_desired(1).await.is_err());
}
