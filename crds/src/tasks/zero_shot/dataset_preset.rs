//! The data sets of the paper's zero-shot tables, with the defaults of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TemplateSet;
use crate::tasks::Metric;

/// A data set of the paper's tables, by the name of its folder in ELEVATER (ICinW), or ImageNet.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::schema::leave_words_to_fields)]
pub enum DatasetPreset {
    /// 101 kinds of objects; mean per class.
    #[serde(rename = "caltech-101")]
    Caltech101,
    /// 10 kinds of animals and vehicles; accuracy.
    #[serde(rename = "cifar-10")]
    Cifar10,
    /// 100 kinds of things; accuracy.
    #[serde(rename = "cifar-100")]
    Cifar100,
    /// 211 countries; accuracy.
    #[serde(rename = "country211")]
    Country211,
    /// 47 textures; accuracy.
    #[serde(rename = "dtd")]
    Dtd,
    /// 10 kinds of land from above; accuracy.
    #[serde(rename = "eurosat_clip")]
    Eurosat,
    /// 7 expressions of faces; accuracy.
    #[serde(rename = "fer-2013")]
    Fer2013,
    /// 100 aircraft; mean per class.
    #[serde(rename = "fgvc-aircraft-2013b-variants102")]
    FgvcAircraft,
    /// 101 dishes; accuracy.
    #[serde(rename = "food-101")]
    Food101,
    /// 43 traffic signs; accuracy.
    #[serde(rename = "gtsrb")]
    Gtsrb,
    /// 2: hateful or not; area under the ROC curve.
    #[serde(rename = "hateful-memes")]
    HatefulMemes,
    /// 4 distances of a car; accuracy.
    #[serde(rename = "kitti-distance")]
    KittiDistance,
    /// 10 digits; accuracy.
    #[serde(rename = "mnist")]
    Mnist,
    /// 102 flowers; mean per class.
    #[serde(rename = "oxford-flower-102")]
    OxfordFlower102,
    /// 37 breeds of cats and dogs; mean per class.
    #[serde(rename = "oxford-iiit-pets")]
    OxfordPets,
    /// 2: tumour or not; accuracy.
    #[serde(rename = "patch-camelyon")]
    PatchCamelyon,
    /// 2: good or bad reviews; accuracy.
    #[serde(rename = "rendered-sst2")]
    RenderedSst2,
    /// 45 kinds of places from above; accuracy.
    #[serde(rename = "resisc45_clip")]
    Resisc45,
    /// 196 cars; accuracy.
    #[serde(rename = "stanford-cars")]
    StanfordCars,
    /// 20 kinds of objects, several per image; mean average precision.
    #[serde(rename = "voc-2007-classification")]
    Voc2007,
    /// 1000 kinds of things; accuracy.
    #[serde(rename = "imagenet-1k")]
    Imagenet1k,
}

/// Defaults of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetDefaults {
    /// Number of classes.
    pub classes: usize,
    /// Primary metric.
    pub primary_metric: Metric,
    /// Prompt template set.
    pub templates: TemplateSet,
    /// Whether two of its classes have the same name, which is an error in other data sets.
    pub has_duplicate_names: bool,
}

impl DatasetPreset {
    /// Every preset.
    pub const ALL: [Self; 21] = [
        Self::Caltech101,
        Self::Cifar10,
        Self::Cifar100,
        Self::Country211,
        Self::Dtd,
        Self::Eurosat,
        Self::Fer2013,
        Self::FgvcAircraft,
        Self::Food101,
        Self::Gtsrb,
        Self::HatefulMemes,
        Self::KittiDistance,
        Self::Mnist,
        Self::OxfordFlower102,
        Self::OxfordPets,
        Self::PatchCamelyon,
        Self::RenderedSst2,
        Self::Resisc45,
        Self::StanfordCars,
        Self::Voc2007,
        Self::Imagenet1k,
    ];

    /// Its name in a manifest.
    pub fn name(self) -> String {
        let name = serde_json::to_value(self).ok();
        name.and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// Defaults of the data set.
    ///
    /// # Source
    /// Table 11 of the paper, and the template sets of its evaluation.
    pub fn defaults(self) -> DatasetDefaults {
        use Metric::{Accuracy, MeanAveragePrecision, MeanPerClass, RocAuc};
        use TemplateSet::{Aircraft, Country, Flower, Food, General, Satellite};
        let (classes, primary_metric, templates) = match self {
            Self::Caltech101 => (101, MeanPerClass, General),
            Self::Cifar10 => (10, Accuracy, General),
            Self::Cifar100 => (100, Accuracy, General),
            Self::Country211 => (211, Accuracy, Country),
            Self::Dtd => (47, Accuracy, General),
            Self::Eurosat => (10, Accuracy, Satellite),
            Self::Fer2013 => (7, Accuracy, General),
            Self::FgvcAircraft => (100, MeanPerClass, Aircraft),
            Self::Food101 => (101, Accuracy, Food),
            Self::Gtsrb => (43, Accuracy, General),
            Self::HatefulMemes => (2, RocAuc, General),
            Self::KittiDistance => (4, Accuracy, General),
            Self::Mnist => (10, Accuracy, General),
            Self::OxfordFlower102 => (102, MeanPerClass, Flower),
            Self::OxfordPets => (37, MeanPerClass, General),
            Self::PatchCamelyon => (2, Accuracy, General),
            Self::RenderedSst2 => (2, Accuracy, General),
            Self::Resisc45 => (45, Accuracy, Satellite),
            Self::StanfordCars => (196, Accuracy, General),
            Self::Voc2007 => (20, MeanAveragePrecision, General),
            Self::Imagenet1k => (1000, Accuracy, General),
        };

        DatasetDefaults {
            classes,
            primary_metric,
            templates,
            has_duplicate_names: self == Self::Imagenet1k,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_known_by_its_name_and_only_once() {
        let mut names: Vec<_> = DatasetPreset::ALL
            .iter()
            .map(|preset| preset.name())
            .collect();
        for (preset, name) in DatasetPreset::ALL.iter().zip(&names) {
            let json = serde_json::Value::from(name.as_str());
            assert_eq!(
                serde_json::from_value::<DatasetPreset>(json).unwrap(),
                *preset
            );
        }

        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 21);
        assert!(
            names.contains(&"voc-2007-classification".to_owned()),
            "{names:?}"
        );
    }

    #[test]
    fn defaults_are_those_of_the_papers_table() {
        let classes: usize = DatasetPreset::ALL
            .iter()
            .map(|preset| preset.defaults().classes)
            .sum();

        assert_eq!(
            classes,
            1150 + 1000,
            "20 data sets of ELEVATER, and ImageNet"
        );

        let by = |metric| {
            let of = |preset: &&DatasetPreset| preset.defaults().primary_metric == metric;
            DatasetPreset::ALL.iter().filter(of).count()
        };

        assert_eq!(by(Metric::MeanPerClass), 4);
        assert_eq!(by(Metric::RocAuc), 1);
        assert_eq!(by(Metric::MeanAveragePrecision), 1);
        assert_eq!(by(Metric::Accuracy), 15);
    }
}
