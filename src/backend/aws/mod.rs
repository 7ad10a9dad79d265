//! Images on S3, the queue on SQS, results on DynamoDB, the fleet an EC2 Auto Scaling group.

use std::sync::Arc;

use self::{
    bucket::Bucket, client::Clients, fleet::AutoScalingFleet, images::S3Images, instance::Ec2Instance, queue::SqsQueue,
    reset::AwsReset, results::DynamoResults,
};
use super::{Backend, Instance, Result};
use crate::config::Aws;

mod bucket;
mod client;
mod counts;
mod dead;
mod fleet;
mod images;
mod instance;
mod marker;
mod outputs;
mod page;
mod queue;
mod queue_batch;
mod queue_facts;
mod reset;
mod results;
mod row;
mod scaler;
pub mod setup;
mod sweep;
mod tagged;
mod tags;
mod workers;

/// Opens the resources that `config` names.
///
/// # Errors
/// If the queue or the table cannot be reached, is missing, or is of a kind that cannot work.
pub async fn open(config: &Aws) -> Result<Backend> {
    open_with(Clients::new(config).await, config).await
}

/// The EC2 instance that this process runs on, or the host if it is none.
///
/// # Errors
/// If the configured Auto Scaling group cannot be asked.
pub async fn instance(config: &Aws) -> Result<Arc<dyn Instance>> {
    Ok(Arc::new(Ec2Instance::find(config).await?))
}

async fn open_with(clients: Clients, config: &Aws) -> Result<Backend> {
    let outputs = Arc::new(Bucket::new(clients.s3.clone(), &config.output_bucket));
    let images = Arc::new(S3Images::new(clients.s3, &config.bucket, &config.prefix));
    let (queue, results) = tokio::try_join!(
        SqsQueue::open(clients.sqs, &config.queue_url),
        DynamoResults::open(clients.dynamodb, &config.table, Arc::clone(&images)),
    )?;
    let (queue, results) = (Arc::new(queue), Arc::new(results));
    let reset = AwsReset {
        images: Arc::clone(&images),
        outputs: Arc::clone(&outputs),
        queue: Arc::clone(&queue),
        results: Arc::clone(&results),
    };
    let fleet = AutoScalingFleet::new(clients.autoscaling, config.auto_scaling_group.as_deref().unwrap_or_default());
    Ok(Backend {
        name: "aws",
        images: Arc::<S3Images>::clone(&images),
        tags: images,
        outputs,
        queue: Arc::<SqsQueue>::clone(&queue),
        dead_letters: queue,
        results: Arc::<DynamoResults>::clone(&results),
        workers: Arc::<DynamoResults>::clone(&results),
        scaler: results,
        fleet: Arc::new(fleet),
        reset: Arc::new(reset),
    })
}

#[cfg(test)]
mod instance_tests;
#[cfg(test)]
mod tests;
