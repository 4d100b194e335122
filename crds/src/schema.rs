//! What a definition says of a field. Knows no field.

use schemars::Schema;

/// For types that optional fields have: takes away what is said of the type, which would stand in the place
/// of what is said of the field, for kube folds such a field and its type into one.
pub(crate) fn leave_words_to_fields(schema: &mut Schema) {
    schema.remove("description");
}
