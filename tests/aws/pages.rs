//! What a page of results costs, however many rows there are.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use imgcls::contract::{Digest, order::sort_key};
use serde_json::Value;

use super::{ministack, proxy::Proxy, system::System};
use crate::support::client;

/// Rows of the small table, and of the large one: `IMGCLS_TEST_ROWS` says how many, for a run by hand.
const FEW: usize = 1000;
const MANY: usize = 20_000;

/// The `i`-th row of the table, as a worker writes it.
fn row(i: usize) -> WriteRequest {
    let (s, n) = (|text: &str| AttributeValue::S(text.to_owned()), |n: &dyn ToString| AttributeValue::N(n.to_string()));
    let name = name(i);
    let item = HashMap::from([
        ("Shard".to_owned(), n(&(Digest::of(name.as_bytes()).0[0] % 8))),
        ("SortKey".to_owned(), s(&sort_key(&name))),
        ("ImageName".to_owned(), s(&name)),
        ("Classification".to_owned(), s("tabby")),
        ("Confidence".to_owned(), n(&0.5)),
        ("S3Location".to_owned(), s("s3://b/k")),
        ("Model".to_owned(), s("m")),
        ("ClassifiedBy".to_owned(), s("w")),
        ("ClassifiedOn".to_owned(), s("2026-01-02T03:04:05Z")),
        ("AskedAt".to_owned(), n(&1_700_000_000_000u64)),
    ]);
    WriteRequest::builder().put_request(PutRequest::builder().set_item(Some(item)).build().unwrap()).build()
}

fn name(i: usize) -> String {
    format!("{i}_photo.jpg")
}

async fn insert(system: &System, rows: std::ops::Range<usize>) {
    let chunks: Vec<Vec<WriteRequest>> =
        rows.collect::<Vec<_>>().chunks(25).map(|c| c.iter().map(|i| row(*i)).collect()).collect();
    let write = |chunk| async move {
        let written = system.dynamodb.batch_write_item().request_items("Classifications", chunk).send().await?;
        assert!(written.unprocessed_items().is_none_or(HashMap::is_empty));
        anyhow::Ok(())
    };
    stream::iter(chunks).map(write).buffer_unordered(8).try_collect::<()>().await.unwrap();
}

/// A page of 50 costs as many queries and scanned items with many rows as with few: at the start, in the middle,
/// backwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_costs_the_same_however_many_rows_there_are() {
    let many = std::env::var("IMGCLS_TEST_ROWS").map_or(MANY, |rows| rows.parse().unwrap());
    let proxy = Proxy::start(ministack().await).await;
    let system = System::new(ministack().await, &proxy.url).await;
    let (_serve, url) = system.serve();
    let client = client();
    let costs = async || {
        let mut costs = Vec::new();
        for (from, first) in [(None, 0), (Some(("after", name(499))), 500), (Some(("before", name(500))), 450)] {
            proxy.reset_counts();
            let request = client.get(format!("{url}/api/results")).query(&[("limit", "50")]).query(from.as_slice());
            let page: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
            let names: Vec<&str> =
                page["results"].as_array().unwrap().iter().map(|r| r["image"].as_str().unwrap()).collect();
            assert_eq!(names, (first..first + 50).map(name).collect::<Vec<_>>());
            let counts = proxy.counts();
            costs.push((counts["DynamoDB.Query"], counts["DynamoDB.Query.ScannedCount"]));
        }
        costs
    };
    insert(&system, 0..FEW).await;
    let few = costs().await;
    insert(&system, FEW..many).await;
    let with_many = costs().await;
    println!("queries and scanned items of three pages: {few:?} with {FEW} rows, {with_many:?} with {many}");
    assert_eq!(few, with_many);
}
