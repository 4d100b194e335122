//! Finds the curves of a run's stages under its artifact prefix. Draws nothing.

use cnclip_crds::artifacts;

use super::history::History;
use super::page::Stage;
use crate::error::Result;
use crate::store::Store;

/// The stages that have left curves under a run's prefix, in the order in which they began.
///
/// # Errors
/// If the store fails.
pub fn stages(run: &Store) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for entry in run.list()? {
        let Some((name, artifacts::METRICS)) = entry.name.split_once('/') else { continue };
        let text = run.get(&entry.name)?;
        let points = History::from_jsonl(&String::from_utf8_lossy(&text)).points().to_vec();
        stages.push(Stage { name: name.to_owned(), points });
    }
    stages.sort_by_key(|stage| stage.points.first().map(|point| point.reported_at));
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_in_the_order_in_which_they_began() {
        let run = Store::memory();
        for (name, line) in [
            ("finetune/metrics.jsonl", "{\"step\":10,\"reportedAt\":900}\n"),
            ("pretrain/metrics.jsonl", "{\"step\":10,\"reportedAt\":500}\n{\"step\":20}\n"),
            ("pretrain/checkpoints/20/metrics.jsonl", "{\"step\":1}\n"),
            ("results.json", "{}"),
        ] {
            run.put(name, line.into()).unwrap();
        }
        let found = stages(&run).unwrap();
        let found: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.points.len())).collect();
        assert_eq!(found, [("pretrain", 2), ("finetune", 1)]);
    }
}
