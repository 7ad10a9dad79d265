//! How many images there are of each kind, as far as it can be told without reading them all.

use std::collections::BTreeMap;

use super::{bucket::LIST, images::S3Images, marker::sum, results::DynamoResults};
use crate::{
    backend::{Counts, Error, ErrorKind, Filter, FolderCount, LabelCount, Registry, Result, StateCounts},
    contract::{ImageName, order::sort_key},
};

/// Pages of a listing that are looked through for folders; files beside them are among what is listed.
const MAX_LISTED: usize = 10;

impl DynamoResults {
    /// What workers counted, and the folders.
    pub(super) async fn read_counts(&self, filter: &Filter) -> Result<Counts> {
        if (Filter { folder: None, ..filter.clone() }) != Filter::default() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "on AWS only all images are counted; leave q, label and state out",
            ));
        }
        let marker = self.marker().await?;
        let (heartbeats, folders) = tokio::try_join!(self.heartbeats(), self.images.folders(filter.folder.as_ref()))?;
        let (done, failed) = sum(&heartbeats);
        let states = StateCounts {
            labelled: done.saturating_sub(marker.done),
            failed: failed.saturating_sub(marker.failed),
            ..StateCounts::default()
        };
        let mut counts = BTreeMap::new();
        for (label, images) in heartbeats.into_iter().flat_map(|beat| beat.labels) {
            *counts.entry(label).or_default() += images;
        }
        let mut labels: Vec<LabelCount> =
            counts.into_iter().map(|(label, images)| LabelCount { label, images }).collect();
        labels.sort_by_key(|count| std::cmp::Reverse(count.images));
        labels.truncate(Counts::MAX_COUNTED);
        Ok(Counts { states, labels, folders, exact: false })
    }
}

impl S3Images {
    /// The folders in `parent`, or the outermost ones, as far as a listing of bounded length tells.
    async fn folders(&self, parent: Option<&ImageName>) -> Result<Vec<FolderCount>> {
        let inside = parent.map_or_else(|| self.prefix.clone(), |parent| format!("{}/", self.key(parent)));
        let mut folders = Vec::new();
        let mut next = None;
        for _ in 0..MAX_LISTED {
            let page = self
                .bucket
                .client
                .list_objects_v2()
                .bucket(&self.bucket.name)
                .prefix(&inside)
                .delimiter("/")
                .set_continuation_token(next)
                .send()
                .await
                .map_err(|e| LIST.error(&self.bucket.uri(&inside), &e))?;
            let keys = page.common_prefixes().iter().filter_map(|folder| folder.prefix()?.strip_suffix('/'));
            folders.extend(keys.filter_map(|key| self.image(key)).map(|folder| FolderCount { folder, images: None }));
            next = page.next_continuation_token;
            if next.is_none() {
                break;
            }
        }
        folders.sort_by_cached_key(|count| sort_key(count.folder.as_str()));
        folders.truncate(Counts::MAX_COUNTED);
        Ok(folders)
    }
}
