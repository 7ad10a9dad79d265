//! The instance, on moto's Auto Scaling and a stub of the metadata service: no emulator has the signs of an end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_config::{imds, provider_config::ProviderConfig};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    response::IntoResponse,
    routing::put,
};

use super::{
    client::{Clients, http_client},
    instance::Ec2Instance,
    tests::emulator,
};
use crate::{
    backend::{Departure, Fleet, Instance, host_name},
    config::Aws,
};

/// What the stub says, by path.
type Facts = Arc<Mutex<HashMap<&'static str, String>>>;

/// A client of the metadata service at `url`.
fn imds_of(url: String) -> imds::Client {
    let provider = ProviderConfig::default().with_http_client(http_client());
    imds::Client::builder().configure(&provider).endpoint(url).unwrap().max_attempts(1).build()
}

/// Starts the stub and returns a client of it.
async fn metadata(facts: Facts) -> imds::Client {
    async fn fact(State(facts): State<Facts>, uri: Uri) -> impl IntoResponse {
        let fact = facts.lock().unwrap().get(uri.path().trim_start_matches("/latest/meta-data/")).cloned();
        fact.ok_or(StatusCode::NOT_FOUND)
    }
    let token = put(|| async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "token") });
    let router = Router::new().route("/latest/api/token", token).fallback(fact).with_state(facts);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    imds_of(url)
}

#[tokio::test]
async fn an_instance_is_protected_and_leaves_through_its_group() {
    let moto = tokio::task::spawn_blocking(emulator::Emulator::moto).await.unwrap();
    let config = Aws { endpoint_url: Some(moto.url.clone()), auto_scaling_group: Some("app".into()), ..Aws::default() };
    let clients = Clients::of_emulator(&config, &emulator::account()).await;
    let group = &clients.autoscaling;
    let launch = group.create_launch_configuration().launch_configuration_name("l").image_id("ami-12c6146b");
    launch.instance_type("t2.micro").send().await.unwrap();
    let create = group.create_auto_scaling_group().auto_scaling_group_name("app").launch_configuration_name("l");
    create.min_size(1).max_size(4).desired_capacity(2).availability_zones("eu-central-1a").send().await.unwrap();
    let described = group.describe_auto_scaling_groups().send().await.unwrap();
    let id = described.auto_scaling_groups()[0].instances()[0].instance_id().unwrap().to_owned();
    let facts = Facts::default();
    facts.lock().unwrap().insert("instance-id", id.clone());
    let instance = Ec2Instance::with(group.clone(), metadata(Arc::clone(&facts)).await, &config).await.unwrap();
    assert_eq!(instance.id(), id);

    let fleet = super::fleet::AutoScalingFleet::new(group.clone(), "app");
    instance.protect(true).await.unwrap();
    assert_eq!(fleet.observe().await.unwrap().protected, 1);
    assert_eq!(fleet.protected(), std::slice::from_ref(&id));
    fleet.release(&fleet.protected()).await.unwrap();
    assert_eq!((fleet.observe().await.unwrap().protected, fleet.protected().len()), (0, 0));
    instance.protect(true).await.unwrap();
    instance.protect(false).await.unwrap();
    assert_eq!(fleet.observe().await.unwrap().protected, 0);

    instance.drained().await.unwrap();
    assert_eq!(instance.depart().await.unwrap(), Departure::Leaving);
    assert_eq!(fleet.observe().await.unwrap().desired, 1);
    // The other one is the last that the group allows.
    let described = group.describe_auto_scaling_groups().send().await.unwrap();
    let last = described.auto_scaling_groups()[0].instances()[0].instance_id().unwrap().to_owned();
    assert_ne!(last, id);
    facts.lock().unwrap().insert("instance-id", last);
    let instance = Ec2Instance::with(group.clone(), metadata(facts).await, &config).await.unwrap();
    assert_eq!(instance.depart().await.unwrap(), Departure::Needed);
    assert_eq!(fleet.observe().await.unwrap().desired, 1);
}

#[tokio::test]
async fn signs_of_an_end_are_told() {
    let config = Aws::default();
    let clients = Clients::of_emulator(&config, "123456789012").await;
    let facts = Facts::default();
    facts.lock().unwrap().insert("instance-id", "i-1".into());
    facts.lock().unwrap().insert("autoscaling/target-lifecycle-state", "InService".into());
    let imds = metadata(Arc::clone(&facts)).await;
    let instance = Ec2Instance::with(clients.autoscaling.clone(), imds, &config).await.unwrap();
    // Nothing scales it, so it may be one of several containers on the instance, which the host's name tells apart.
    assert_eq!(instance.id(), host_name());
    assert!(tokio::time::timeout(Duration::from_millis(300), instance.leaving()).await.is_err());
    facts.lock().unwrap().insert("autoscaling/target-lifecycle-state", "Terminated".into());
    assert!(instance.leaving().await.contains("Terminated"));
    facts.lock().unwrap().insert("spot/instance-action", r#"{"action": "terminate"}"#.into());
    assert!(instance.leaving().await.contains("spot"));
}

#[tokio::test]
async fn off_ec2_the_host_is_known_within_a_second_and_nobody_manages_it() {
    let config = Aws { auto_scaling_group: Some("app".into()), ..Aws::default() };
    let clients = Clients::of_emulator(&config, "123456789012").await;
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let imds = imds_of(url);
    let started = Instant::now();
    let instance = Ec2Instance::with(clients.autoscaling, imds, &config).await.unwrap();
    // Far below the minutes of a connection that hangs; a loaded machine may be late.
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(instance.id(), host_name());
    instance.protect(true).await.unwrap();
    assert_eq!(instance.depart().await.unwrap(), Departure::Unmanaged);
}
