//! The table.

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
};

use super::{
    super::{
        client::Call,
        images::S3Images,
        results::DynamoResults,
        row::{SHARD, SORT_KEY},
    },
    Action, Setup, unbuilt,
};
use crate::backend::{Error, ErrorKind, Result, Retry};

/// How often a new table is looked for, which takes about two minutes.
const WAIT: Retry = Retry { attempts: 80, first: Duration::from_millis(500), longest: Duration::from_secs(2) };

const DESCRIBE_TABLE: Call = Call::new("look for table", "dynamodb:DescribeTable");
const CREATE_TABLE: Call = Call::new("create table", "dynamodb:CreateTable");

impl Setup<'_> {
    pub(super) async fn table(&mut self) -> Result<()> {
        let (dynamodb, name) = (self.clients.dynamodb.clone(), self.config.table.clone());
        let resource = format!("table {name}");
        match dynamodb.describe_table().table_name(&name).send().await {
            Ok(described) => {
                let keys = described.table().map(|t| t.key_schema()).unwrap_or_default();
                let ours = [(SHARD, KeyType::Hash), (SORT_KEY, KeyType::Range)];
                if !ours.iter().all(|(n, t)| keys.iter().any(|k| k.attribute_name() == *n && k.key_type() == t)) {
                    let message =
                        format!("table {name} has other keys than {SHARD} and {SORT_KEY}; name another table");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                self.step(resource, Action::Kept);
            }
            Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_not_found_exception()) => {
                if !self.dry_run {
                    self.create_table(&name).await?;
                }
                self.step(resource, Action::Created);
            }
            Err(error) => return Err(DESCRIBE_TABLE.error(&name, &error)),
        }
        if !self.dry_run {
            // Marks a new table with its layout, and refuses one of another.
            let images = S3Images::new(self.clients.s3.clone(), &self.config.bucket, &self.config.prefix);
            DynamoResults::open(dynamodb, &name, Arc::new(images)).await?;
        }
        Ok(())
    }

    async fn create_table(&self, name: &str) -> Result<()> {
        let key = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(unbuilt);
        let attribute = |name, kind| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(unbuilt)
        };
        let created = self
            .clients
            .dynamodb
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(key(SHARD, KeyType::Hash)?)
            .key_schema(key(SORT_KEY, KeyType::Range)?)
            .attribute_definitions(attribute(SHARD, ScalarAttributeType::N)?)
            .attribute_definitions(attribute(SORT_KEY, ScalarAttributeType::S)?)
            .send()
            .await;
        created.map_err(|e| CREATE_TABLE.error(name, &e))?;
        let mut looks = WAIT.start();
        loop {
            // Just created, it may not be found for a moment.
            let described = self.clients.dynamodb.describe_table().table_name(name).send().await;
            if described.is_ok_and(|d| d.table().and_then(|t| t.table_status()) == Some(&TableStatus::Active)) {
                return Ok(());
            }
            let message = format!("table {name} is created and not active after two minutes; run `imgcls setup` again");
            looks.again(Error::new(ErrorKind::Transient, message)).await?;
        }
    }
}
