//! Multi: several znode operations, all or nothing.

use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::request::ZnodeOperation;

use crate::operations::znode::{self, Writer};
use crate::view::View;

/// How many operations one multi may have. Its frame bounds their bytes already.
const MAX_OPERATIONS: usize = 100_000;

/// Does all of them in order, or says which part failed.
pub(crate) fn execute(
    view: &mut View,
    writer: Writer<'_>,
    operations: &[ZnodeOperation],
) -> Result<Outcome, Refusal> {
    if operations.len() > MAX_OPERATIONS {
        let message = format!("a multi of {}: at most {MAX_OPERATIONS}", operations.len());
        return Err(Refusal::BadArguments(message));
    }
    let mut outcomes = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let outcome =
            znode::execute(view, writer, operation).map_err(|refusal| Refusal::Multi {
                index: index as u32,
                refusal: Box::new(refusal),
            })?;
        outcomes.push(outcome);
    }
    Ok(Outcome::Multi(outcomes))
}
