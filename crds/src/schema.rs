//! Schema transformations.

use schemars::Schema;

/// Removes the description of a type that optional fields have.
///
/// kube merges an `Option` field with its type's schema, and the description of the type would replace that
/// of the field.
pub(crate) fn leave_words_to_fields(schema: &mut Schema) {
    schema.remove("description");
}
