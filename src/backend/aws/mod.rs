//! Images on S3, the queue on SQS, results on DynamoDB, the fleet an EC2 Auto Scaling group.

mod client;
mod dead;
mod images;
mod page;
mod queue;
mod results;
mod row;
