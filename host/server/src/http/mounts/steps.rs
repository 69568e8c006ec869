//! Unmounts and upgrades go in steps, each a request that this server sends behind the one before, so that others' go
//! in between (rule S6). If this server dies the mount stays as it is by then, visibly, and who asks again goes on.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::RecipeDigest;
use quorate_model::request::Operation;
use tokio::time::{sleep, timeout};

use crate::http::problem::Problem;
use crate::http::{Http, Peer, accepted, request};
use crate::route::Unavailable;

/// How many go on at once.
pub(in crate::http) const MAX_IN_STEPS: usize = 16;

/// How long a step waits for a leader, and for that to have compiled what it takes.
const STEP_PATIENCE: Duration = Duration::from_secs(60);

/// Before a step is sent again that was not taken.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

impl Http {
    /// Asks this, and then one after the other what it takes to finish it. Goes on if whoever asked has gone. Gives
    /// what the last of them came to.
    ///
    /// # Errors
    /// Whatever refuses one of them; [`MAX_IN_STEPS`] at once, or nobody who leads for a while.
    pub(super) async fn in_steps(
        self: &Arc<Http>,
        peer: Peer,
        operation: Operation,
        component: Option<RecipeDigest>,
    ) -> Result<(Zxid, Outcome), Problem> {
        self.may_write()?;
        let Ok(turn) = self.steps.clone().try_acquire_owned() else {
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                format!(
                    "{MAX_IN_STEPS} unmounts and upgrades go on here: nothing was done, so try again"
                ),
            ));
        };
        let http = self.clone();
        let steps = async move {
            let _turn = turn;
            http.steps_of(peer, operation, component).await
        };
        tokio::spawn(steps).await.map_err(Problem::internal)?
    }

    async fn steps_of(
        &self,
        peer: Peer,
        first: Operation,
        component: Option<RecipeDigest>,
    ) -> Result<(Zxid, Outcome), Problem> {
        let mut asked = first;
        let mut answer = self.step(peer, &asked, component).await?;
        while let Some(next) = asked.next_step(&answer.1) {
            let then = self.step(peer, &next, component).await?;
            if let Outcome::Unmounting { ended_calls, .. } = answer.1
                && let Outcome::Refused(Refusal::NotMounted(_)) = then.1
            {
                // Who has gone on with it beside this one has had the last step.
                return Ok((then.0, Outcome::Unmounted { ended_calls }));
            }
            (asked, answer) = (next, then);
        }
        accepted(Ok(answer))
    }

    /// One step, whose refusal is an answer.
    async fn step(
        &self,
        peer: Peer,
        operation: &Operation,
        component: Option<RecipeDigest>,
    ) -> Result<(Zxid, Outcome), Problem> {
        let asked = async {
            loop {
                let request = request(SessionId::NONE, peer, operation.clone());
                match self.edge.router.ask(request).await {
                    // Another server leads by now, and has to compile it first.
                    Ok((_, Outcome::Refused(Refusal::NotReady(_)))) if component.is_some() => {
                        if let Some(digest) = component {
                            self.make_ready(digest).await;
                        }
                    }
                    Err(Unavailable::Overloaded(_)) => {}
                    Err(unavailable) => return Err(Problem::unavailable(unavailable)),
                    Ok(answer) => return Ok(answer),
                }
                sleep(AGAIN_AFTER).await;
            }
        };
        timeout(STEP_PATIENCE, asked).await.map_err(|_| {
            let message = format!(
                "for {} seconds nobody has led who took it, or had compiled what it takes: what was done stays, and \
                 to ask again, this server or another, goes on with it",
                STEP_PATIENCE.as_secs()
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unfinished", message)
        })?
    }
}
