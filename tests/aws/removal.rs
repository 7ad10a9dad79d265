//! Removing and replacing images while stores fail or are slow: nothing comes back, nothing is left behind.

use aws_sdk_s3::types::{Tag, Tagging};
use aws_sdk_sqs::types::QueueAttributeName;

use super::{
    ministack,
    proxy::{Call, Proxy, Verdict},
    system::{Role, System},
};
use crate::support::{DEADLINE, client, eventually, picture};

/// A system behind a proxy.
struct Fixture {
    proxy: Proxy,
    system: System,
    client: reqwest::Client,
}

impl Fixture {
    async fn new() -> Self {
        let proxy = Proxy::start(ministack().await).await;
        let system = System::new(ministack().await, &proxy.url).await;
        Self { proxy, system, client: client() }
    }

    /// Works until the queue is empty.
    async fn work(&self) {
        let mut worker = self.system.work(&["--until-empty", "--threads", "1"]);
        assert!(worker.ended(DEADLINE).await.success(), "{}", worker.log());
    }

    async fn delete(&self, url: &str, image: &str) -> u16 {
        self.client.delete(format!("{url}/images/{image}")).send().await.unwrap().status().as_u16()
    }

    /// A worker that holds the row of its only image just before it is written.
    async fn work_up_to_the_row(&self) -> Role {
        self.proxy.reset_counts();
        self.proxy.judge(|call| if writes_a_row(call) { Verdict::Hold } else { Verdict::Pass });
        let worker = self.system.work(&["--threads", "1"]);
        eventually("the row's write", async || {
            self.proxy.counts().get("DynamoDB.UpdateItem").is_some_and(|n| *n > 0).then_some(())
        })
        .await;
        worker
    }

    async fn nothing_is_left(&self) {
        assert!(self.system.rows().await.is_empty(), "{:?}", self.system.rows().await);
        assert_eq!(self.system.keys(&self.system.output_bucket()).await, Vec::<String>::new());
    }
}

/// A worker's write of a row; the others say what they remove.
fn writes_a_row(call: &Call) -> bool {
    call.operation == "DynamoDB.UpdateItem" && String::from_utf8_lossy(&call.body).contains("ClassifiedOn = :")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_failed_half_way_is_finished_by_asking_again() {
    let fixture = Fixture::new().await;
    fixture.system.put("a.png", &picture(1)).await;
    fixture.work().await;
    let outputs = fixture.system.output_bucket();
    assert_eq!(fixture.system.keys(&outputs).await.len(), 1);
    let (_serve, url) = fixture.system.serve();
    let output = format!("/{outputs}/");
    fixture.proxy.judge(move |call| {
        let fails = call.operation == "S3.DeleteObject" && call.path.starts_with(&output);
        if fails { Verdict::Fail } else { Verdict::Pass }
    });
    assert_eq!(fixture.delete(&url, "a.png").await, 503);
    assert_eq!(fixture.system.keys(&outputs).await.len(), 1);
    fixture.proxy.judge(|_| Verdict::Pass);
    assert_eq!(fixture.delete(&url, "a.png").await, 200);
    fixture.nothing_is_left().await;
    assert_eq!(fixture.delete(&url, "a.png").await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_written_after_its_image_was_removed_does_not_come_back() {
    let fixture = Fixture::new().await;
    let (_serve, url) = fixture.system.serve();
    for bytes in [picture(1), b"no picture".to_vec()] {
        fixture.system.put("a.png", &bytes).await;
        let worker = fixture.work_up_to_the_row().await;
        assert_eq!(fixture.delete(&url, "a.png").await, 200);
        fixture.proxy.judge(|_| Verdict::Pass);
        eventually("an empty queue", async || (fixture.system.depth("images").await == (0, 0)).then_some(())).await;
        fixture.nothing_is_left().await;
        drop(worker);
    }
    // The name is free for another image.
    fixture.system.put("a.png", &picture(2)).await;
    fixture.work().await;
    assert!(fixture.system.rows().await["a.png"].is_ok());
    assert_eq!(fixture.system.keys(&fixture.system.output_bucket()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_no_longer_is_a_picture_loses_label_output_and_tags() {
    let fixture = Fixture::new().await;
    fixture.system.put("a.png", &picture(1)).await;
    fixture.work().await;
    let outputs = fixture.system.output_bucket();
    assert_eq!(fixture.system.keys(&outputs).await.len(), 1);
    let tags = async || {
        let get = fixture.system.s3.get_object_tagging().bucket(fixture.system.bucket()).key("in/a.png");
        get.send().await.unwrap().tag_set.into_iter().map(|tag| tag.key).collect::<Vec<_>>()
    };
    assert!(tags().await.contains(&"Classification".to_owned()));
    // Another tool replaces the bytes and keeps the tags.
    let set = ["Owner", "Classification", "Image"].map(|key| Tag::builder().key(key).value("x").build().unwrap());
    let set = Tagging::builder().set_tag_set(Some(set.to_vec()));
    fixture.system.put("a.png", b"no picture").await;
    let put = fixture.system.s3.put_object_tagging().bucket(fixture.system.bucket()).key("in/a.png");
    put.tagging(set.build().unwrap()).send().await.unwrap();
    fixture.work().await;
    assert!(fixture.system.rows().await["a.png"].is_err());
    assert_eq!(fixture.system.keys(&outputs).await, Vec::<String>::new());
    assert_eq!(tags().await, ["Owner"]);
}

/// A worker that has not heard of a reset writes its row meanwhile: when the command says that it is done, that is
/// gone, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_over_when_it_says_so() {
    let fixture = Fixture::new().await;
    let short = (QueueAttributeName::VisibilityTimeout, "8".to_owned());
    fixture.system.set_queue(&[short]).await;
    fixture.system.put("a.png", &picture(1)).await;
    let worker = fixture.work_up_to_the_row().await;
    let reset = tokio::process::Command::from(fixture.system.tool(&["reset", "--yes"])).output();
    let (reset, ()) = tokio::join!(async { reset.await.unwrap() }, async {
        eventually("the first sweep", async || {
            fixture.system.keys(&fixture.system.output_bucket()).await.is_empty().then_some(())
        })
        .await;
        fixture.proxy.judge(|_| Verdict::Pass);
    });
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    fixture.nothing_is_left().await;
    assert_eq!(fixture.system.depth("images").await, (0, 0), "{}", worker.log());
}
