//! The scaler's memory: one item.

use async_trait::async_trait;

use super::{
    results::{DynamoResults, UPDATE},
    row::{SYSTEM, key, n, number, s, text},
};
use crate::backend::{Result, ScalerMemory, Versioned};

/// Its sort key in the system partition.
const SCALER: &str = "scaler";

#[async_trait]
impl ScalerMemory for DynamoResults {
    async fn read(&self) -> Result<Option<Versioned>> {
        let item = self.system(SCALER).await?;
        Ok(item.and_then(|item| {
            Some(Versioned { value: text(&item, "Value")?.to_owned(), version: number(&item, "Version")? })
        }))
    }

    async fn swap(&self, expected: Option<u64>, value: &str) -> Result<bool> {
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(SYSTEM, SCALER)))
            .update_expression("SET #value = :value, #version = :next")
            .expression_attribute_names("#value", "Value")
            .expression_attribute_names("#version", "Version")
            .expression_attribute_values(":value", s(value))
            .expression_attribute_values(":next", n(expected.unwrap_or(0) + 1));
        update = match expected {
            None => update.condition_expression("attribute_not_exists(#version)"),
            Some(version) => {
                update.condition_expression("#version = :expected").expression_attribute_values(":expected", n(version))
            }
        };
        match update.send().await {
            Ok(_) => Ok(true),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => Ok(false),
            Err(e) => Err(UPDATE.error(&self.table, &e)),
        }
    }
}
