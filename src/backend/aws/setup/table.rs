//! The table.

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, KeySchemaElement, KeyType, Projection, ProjectionType, ScalarAttributeType,
    TableDescription, TableStatus,
};

use super::{
    super::{
        client::Call,
        images::S3Images,
        page::BY_LABEL,
        results::DynamoResults,
        row::{CLASSIFICATION, SHARD, SORT_KEY},
    },
    Action, Setup, unbuilt,
};
use crate::backend::{Error, ErrorKind, Result, Retry};

/// How often a new table is looked for, which takes about two minutes.
const WAIT: Retry = Retry { attempts: 80, first: Duration::from_millis(500), longest: Duration::from_secs(2) };

const DESCRIBE_TABLE: Call = Call::new("look for table", "dynamodb:DescribeTable");
const UPDATE_TABLE: Call = Call::new("add an index to table", "dynamodb:UpdateTable");
const CREATE_TABLE: Call = Call::new("create table", "dynamodb:CreateTable");

impl Setup<'_> {
    pub(super) async fn table(&mut self) -> Result<()> {
        let (dynamodb, name) = (self.clients.dynamodb.clone(), self.config.table.clone());
        let resource = format!("table {name}");
        match dynamodb.describe_table().table_name(&name).send().await {
            Ok(described) => {
                let table = described.table();
                let keys = table.map(TableDescription::key_schema).unwrap_or_default();
                let ours = [(SHARD, KeyType::Hash), (SORT_KEY, KeyType::Range)];
                if !ours.iter().all(|(n, t)| keys.iter().any(|k| k.attribute_name() == *n && k.key_type() == t)) {
                    let message =
                        format!("table {name} has other keys than {SHARD} and {SORT_KEY}; name another table");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                let indexes = table.map(TableDescription::global_secondary_indexes).unwrap_or_default();
                if indexes.iter().any(|index| index.index_name() == Some(BY_LABEL)) {
                    self.step(resource, Action::Kept);
                } else {
                    if !self.dry_run {
                        self.add_index(&name).await?;
                    }
                    let added = format!("index {BY_LABEL} added; it is there when it is filled");
                    self.step(resource, Action::Changed(added));
                }
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

    /// Adds the index of labels to a table of before there was one.
    async fn add_index(&self, name: &str) -> Result<()> {
        let create = CreateGlobalSecondaryIndexAction::builder()
            .index_name(BY_LABEL)
            .key_schema(key(CLASSIFICATION, KeyType::Hash)?)
            .key_schema(key(SORT_KEY, KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
            .map_err(unbuilt)?;
        let update = GlobalSecondaryIndexUpdate::builder().create(create).build();
        let mut request = self.clients.dynamodb.update_table().table_name(name).global_secondary_index_updates(update);
        for (attribute, kind) in ATTRIBUTES {
            request = request.attribute_definitions(define(attribute, kind)?);
        }
        request.send().await.map(drop).map_err(|e| UPDATE_TABLE.error(name, &e))
    }

    async fn create_table(&self, name: &str) -> Result<()> {
        let index = GlobalSecondaryIndex::builder()
            .index_name(BY_LABEL)
            .key_schema(key(CLASSIFICATION, KeyType::Hash)?)
            .key_schema(key(SORT_KEY, KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
            .map_err(unbuilt)?;
        let mut request = self
            .clients
            .dynamodb
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(key(SHARD, KeyType::Hash)?)
            .key_schema(key(SORT_KEY, KeyType::Range)?)
            .global_secondary_indexes(index);
        for (attribute, kind) in ATTRIBUTES {
            request = request.attribute_definitions(define(attribute, kind)?);
        }
        let created = request.send().await;
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

/// The attributes that keys are made of.
const ATTRIBUTES: [(&str, ScalarAttributeType); 3] =
    [(SHARD, ScalarAttributeType::N), (SORT_KEY, ScalarAttributeType::S), (CLASSIFICATION, ScalarAttributeType::S)];

fn key(name: &str, kind: KeyType) -> Result<KeySchemaElement> {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(unbuilt)
}

fn define(name: &str, kind: ScalarAttributeType) -> Result<AttributeDefinition> {
    AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(unbuilt)
}
