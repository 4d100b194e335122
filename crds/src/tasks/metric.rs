//! The metrics that tasks measure. The table of all of them is in the parent module.

use std::fmt;

use super::Metric;

// One row a metric: documentation, variant, name, title, task. The enum, its serialized names, its list and
// its lookups are all made of these rows, so that a new metric cannot be missing from one of them.
macro_rules! declare_metrics {
    ($($(#[$doc:meta])+ $metric:ident = $name:literal, $title:literal, of $task:ident;)+) => {
        /// One number that a task can measure, in percent.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
        )]
        #[schemars(transform = crate::schema::leave_words_to_fields)]
        pub enum Metric {
            $($(#[$doc])+ #[serde(rename = $name)] $metric,)+
        }

        impl Metric {
            /// Every metric.
            pub const ALL: &'static [Self] = &[$(Self::$metric),+];

            /// Its name in manifests, reports and exported metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$metric => $name,)+
                }
            }

            /// Its title on the report page.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$metric => $title,)+
                }
            }

            /// The kind of task that measures it.
            pub fn task_kind(self) -> TaskKind {
                match self {
                    $(Self::$metric => TaskKind::$task,)+
                }
            }
        }
    };
}

pub(super) use declare_metrics;

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
