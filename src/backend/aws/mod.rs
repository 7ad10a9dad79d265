//! Images on S3, the queue on SQS, results on DynamoDB, the fleet an EC2 Auto Scaling group.

use std::sync::Arc;

use self::{
    client::Clients, fleet::AutoScalingFleet, images::S3Images, queue::SqsQueue, reset::AwsReset,
    results::DynamoResults,
};
use super::{Backend, Result};
use crate::config::Aws;

mod client;
mod dead;
mod fleet;
mod images;
mod page;
mod queue;
mod reset;
mod results;
mod row;
pub mod setup;

/// Opens the resources that `config` names.
///
/// # Errors
/// If the queue or the table cannot be reached, is missing, or is of a kind that cannot work.
pub async fn open(config: &Aws) -> Result<Backend> {
    open_with(Clients::new(config).await, config).await
}

async fn open_with(clients: Clients, config: &Aws) -> Result<Backend> {
    let images = Arc::new(S3Images::new(clients.s3, &config.bucket, &config.prefix, &config.output_bucket));
    let (queue, results) = tokio::try_join!(
        SqsQueue::open(clients.sqs, &config.queue_url),
        DynamoResults::open(clients.dynamodb, &config.table),
    )?;
    let (queue, results) = (Arc::new(queue), Arc::new(results));
    let reset = AwsReset { images: Arc::clone(&images), queue: Arc::clone(&queue), results: Arc::clone(&results) };
    let fleet = AutoScalingFleet::new(clients.autoscaling, &config.auto_scaling_group);
    Ok(Backend { name: "aws", images, queue, results, fleet: Arc::new(fleet), reset: Arc::new(reset) })
}

#[cfg(test)]
mod tests;
