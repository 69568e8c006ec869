//! Upload: a checked component goes to the leader piece by piece, each a request like any other, and is then given its
//! name. What is kept already is given its name at once.

use quorate_model::id::Zxid;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::request::{Operation, Request};

use crate::http::CheckedRecipe;
use crate::route::{Router, Unavailable};

/// How often an upload goes back to where others are, before it is given up.
const MAX_SETBACKS: u32 = 8;

/// Keeps a component under a name; `request` makes a request of what is asked. Gives what the last of them came to.
///
/// # Errors
/// [`Unavailable`]. What was uploaded by then is dropped after a while, unless somebody goes on with it.
pub(crate) async fn keep(
    router: &Router,
    name: &str,
    recipe: &CheckedRecipe,
    request: impl Fn(Operation) -> Request,
) -> Result<(Zxid, Outcome), Unavailable> {
    let (digest, component) = (recipe.digest, &recipe.component);
    let mut setbacks = 0;
    loop {
        let push = Operation::PushRecipe {
            name: name.to_owned(),
            digest,
            version: recipe.version.clone(),
            exports: recipe.exports,
        };
        let answer = router.ask(request(push)).await?;
        let missing = matches!(answer.1, Outcome::Refused(Refusal::NoComponent(_)));
        if !missing || setbacks >= MAX_SETBACKS {
            return Ok(answer);
        }
        let mut offset = 0;
        while let Some(piece) = component.piece_at(offset) {
            let piece = Operation::UploadPiece {
                digest,
                bytes: component.bytes(),
                offset,
                piece,
            };
            match router.ask(request(piece)).await? {
                (_, Outcome::Uploaded { bytes }) => {
                    // Somebody else may be further with the same component, or it was dropped meanwhile.
                    setbacks += u32::from(bytes <= offset);
                    offset = bytes;
                }
                refused => return Ok(refused),
            }
            if setbacks >= MAX_SETBACKS {
                break;
            }
        }
        setbacks += 1;
    }
}
