//! A plan in the making: what each step of a stage writes on record, lets come and lets go. Which step
//! it is, [`stages`] says.

use std::time::Duration;

use cnclip_crds::{
    artifacts,
    shared::LastFailure,
    training::{StageState, StageStatus},
};

use super::{
    Standing,
    failure::{self, Class, Failure},
    stages::{self, Step},
    start,
};
use crate::{
    ledger::Ledger,
    objects::Objects,
    observed::{JobSeen, Observed, WorkerState},
    run::Owner,
    status::progress,
    time,
    work::{Attempt, Cause, Work},
};

/// A plan while it is being made.
pub(super) struct Draft {
    pub(super) ledger: Ledger,
    pub(super) create: Option<Objects>,
    pub(super) remove: Vec<String>,
    pub(super) look_again: Option<Duration>,
}

/// The record must be written before the next decision is taken from it.
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

impl Draft {
    /// One step on.
    pub(super) fn advance(&mut self, owner: &Owner, work: &Work, seen: &Observed) -> Standing {
        self.enroll(work);
        let Some(index) = self.ledger.current() else {
            return self.end_well(work, seen);
        };

        if let Some(failure) = over_time(work, &self.ledger, seen) {
            return self.fail(owner, work, index, &failure, seen);
        }

        let stage = self.ledger.stages[index].clone();
        match stages::next(work, &self.ledger, &stage, seen) {
            Step::Wait(cause) => Standing::Waiting(cause),
            Step::HoldBack => self.hold_back(owner, work, index, seen),
            Step::Start(attempt) => self.start(owner, work, index, attempt, seen),
            Step::Watch(job) => self.watch(owner, work, index, &job, seen),
            Step::Succeed => self.succeed(work, index, seen),
            Step::Fail(failure) => self.fail(owner, work, index, &failure, seen),
        }
    }

    /// Every stage is on record from the first write on.
    fn enroll(&mut self, work: &Work) {
        for (index, stage) in work.stages.iter().enumerate() {
            if self.ledger.stages.get(index).is_none() {
                let name = stage.name.clone();
                self.ledger.stages.push(StageStatus {
                    name,
                    ..StageStatus::default()
                });

                self.ledger.history.extend(stage.scores.clone());
            }
        }
    }

    fn end_well(&mut self, work: &Work, seen: &Observed) -> Standing {
        if let Some(cause) = &work.goes_on {
            return if work.suspend {
                let message = "nothing is to be scored; set spec.suspend to false to go on";
                Standing::Suspended(message.to_owned())
            } else {
                Standing::Waiting(cause.clone())
            };
        }

        self.look_again = AT_ONCE;
        self.ledger
            .finished_at
            .get_or_insert_with(|| time::rfc3339(seen.now));

        Standing::Complete(match work.stages.last().filter(|_| work.series) {
            Some(last) => format!("every checkpoint is scored; the last is {}", last.name),
            None => format!("all {} stages are done", work.stages.len()),
        })
    }

    fn hold_back(&mut self, owner: &Owner, work: &Work, index: usize, seen: &Observed) -> Standing {
        self.note_report(work, index, seen);
        let stage = &mut self.ledger.stages[index];
        stage.state = StageState::Suspended;
        stage.eta_seconds = None;
        adopt_attempt(stage, seen);
        let name = stage.name.clone();
        let step = stage.step;

        self.remove_attempts(owner, seen, |_, _| true);
        let living = seen.workers.iter().find(|worker| worker.lives(seen.now));
        Standing::Suspended(living.map_or_else(
            || format!("stage {name} rests after step {step}; set spec.suspend to false to go on"),
            |worker| format!("pod {} saves its state and ends", worker.name),
        ))
    }

    fn start(
        &mut self,
        owner: &Owner,
        work: &Work,
        index: usize,
        attempt: i32,
        seen: &Observed,
    ) -> Standing {
        let stage = &work.stages[index];
        let halved = self.ledger.stages[index].micro_batch_halved;
        let made = Attempt {
            number: attempt,
            halved,
        };

        self.create = Some(Objects::of_attempt(owner, work, stage, made));
        // The last attempt stays for its logs; nobody reads those of the ones before.
        let last = work
            .series
            .then(|| index.checked_sub(1))
            .flatten()
            .and_then(|i| work.stages.get(i));

        let is_last = |name: &str| last.is_none_or(|last| name == last.name);
        self.remove_attempts(owner, seen, |name, old| {
            if name == stage.name {
                old + 1 < attempt
            } else {
                work.series && !is_last(name)
            }
        });

        let message = format!(
            "stage {}, attempt {attempt}: its pods are being made",
            stage.name
        );

        Standing::Waiting(Cause::new("Starting", message))
    }

    fn watch(
        &mut self,
        owner: &Owner,
        work: &Work,
        index: usize,
        job: &JobSeen,
        seen: &Observed,
    ) -> Standing {
        let workers = seen.workers_of(job);
        let obstacle = start::obstacle(work, &job.stage, job, &workers);
        if let Some(failure) = failure::not_started(
            work.start_deadline_seconds,
            job,
            obstacle.as_ref(),
            seen.now,
        ) {
            return self.fail(owner, work, index, &failure, seen);
        }

        self.note_begin(index, job);
        let stage = &mut self.ledger.stages[index];
        stage.state = if obstacle.is_some() {
            StageState::Starting
        } else {
            StageState::Running
        };

        self.note_report(work, index, seen);
        match obstacle {
            Some(cause) => Standing::Waiting(cause),
            None => Standing::Running(format!(
                "stage {}, attempt {}, {} of {} workers",
                job.stage,
                job.attempt,
                workers
                    .iter()
                    .filter(|worker| worker.state == WorkerState::Running)
                    .count(),
                work.workers.replicas
            )),
        }
    }

    fn note_report(&mut self, work: &Work, index: usize, seen: &Observed) {
        let stage = self.ledger.stages[index].name.clone();
        if let Some(report) = seen
            .report
            .as_ref()
            .filter(|report| report.run.stage == stage)
        {
            let keeps = work.stages[index].config.keeps();
            progress::absorb(&mut self.ledger, (index, keeps), report, seen);
        }
    }

    fn note_begin(&mut self, index: usize, job: &JobSeen) {
        let started = time::rfc3339(job.started);
        let stage = &mut self.ledger.stages[index];
        stage.attempt = stage.attempt.max(job.attempt);
        stage.started_at.get_or_insert_with(|| started.clone());
        self.ledger.started_at.get_or_insert(started);

        if job.checkpoint.is_some() {
            self.ledger.checkpoint.clone_from(&job.checkpoint);
        }
    }

    fn succeed(&mut self, work: &Work, index: usize, seen: &Observed) -> Standing {
        self.look_again = AT_ONCE;
        self.note_report(work, index, seen);
        if let Some(job) = seen.newest_job(&self.ledger.stages[index].name) {
            self.note_begin(index, job);
        }

        let stage = &mut self.ledger.stages[index];
        stage.state = StageState::Succeeded;
        stage.eta_seconds = None;
        stage.finished_at = Some(time::rfc3339(seen.now));

        if work.series {
            failure::forgive(&mut self.ledger.restarts);
        }

        let stage = &work.stages[index];
        self.ledger.report = Some(artifacts::join(stage.config.artifacts(), artifacts::REPORT));
        Standing::Waiting(Cause::new(
            "StageSucceeded",
            format!("stage {} is done", stage.name),
        ))
    }

    /// Puts a failure on record; whether it was the last is decided here and nowhere else.
    fn fail(
        &mut self,
        owner: &Owner,
        work: &Work,
        index: usize,
        failure: &Failure,
        seen: &Observed,
    ) -> Standing {
        self.look_again = AT_ONCE;
        self.note_report(work, index, seen);
        if work.series && misses_its_checkpoint(&self.ledger.stages[index], seen) {
            return self.skip(index, seen);
        }

        let given_up = failure::gives_up(failure.class, &self.ledger.restarts, &work.retries);
        let stage = &mut self.ledger.stages[index];
        adopt_attempt(stage, seen);
        stage.eta_seconds = None;
        stage.state = if given_up.is_some() {
            StageState::Failed
        } else {
            StageState::Starting
        };

        let chosen = work.stages[index].config.chooses_micro_batch();
        stage.micro_batch_halved |= failure.class == Class::OutOfMemory && chosen;
        self.ledger.last_failure = Some(on_record(stage, failure, seen));
        let name = stage.name.clone();
        let attempt = stage.attempt;

        if let Some(why) = given_up {
            return self.give_up(owner, &name, failure, &why, seen);
        }

        failure::count(&mut self.ledger.restarts, failure.class);
        let message = format!(
            "attempt {attempt} of stage {name} ended ({}): {}",
            failure.class.name(),
            failure.message
        );

        Standing::Waiting(Cause::new("RestartPending", message))
    }

    /// A training deletes old checkpoints, and one that is gone can't be scored.
    fn skip(&mut self, index: usize, seen: &Observed) -> Standing {
        failure::forgive(&mut self.ledger.restarts);
        let stage = &mut self.ledger.stages[index];
        adopt_attempt(stage, seen);
        stage.state = StageState::Skipped;
        stage.finished_at = Some(time::rfc3339(seen.now));
        let name = stage.name.clone();
        let entry = self.ledger.history.get_mut(index);
        let gone = entry.map_or_else(String::new, |entry| {
            let message = format!(
                "{} was deleted before it was scored: raise spec.checkpoint.keep of the training to score \
                 all, or spec.checkpoint.everySteps to make fewer",
                entry.checkpoint
            );

            entry.message.insert(message).clone()
        });

        Standing::Waiting(Cause::new(
            "CheckpointSkipped",
            format!("stage {name}: {gone}"),
        ))
    }

    fn give_up(
        &mut self,
        owner: &Owner,
        stage: &str,
        failure: &Failure,
        why: &str,
        seen: &Observed,
    ) -> Standing {
        self.ledger.finished_at = Some(time::rfc3339(seen.now));
        if matches!(failure.class, Class::StartDeadline | Class::Deadline) {
            self.remove_attempts(owner, seen, |name, _| name == stage);
        }

        let message = format!(
            "stage {stage}: {} Not tried again: {why}.",
            full_stop(&failure.message)
        );

        Standing::Failed(Cause::new(failure.class.name(), message))
    }

    fn remove_attempts(
        &mut self,
        owner: &Owner,
        seen: &Observed,
        which: impl Fn(&str, i32) -> bool,
    ) {
        let live = seen
            .jobs
            .iter()
            .filter(|job| !job.deleting && !job.foreign && which(&job.stage, job.attempt));

        self.remove
            .extend(live.map(|job| owner.attempt_name(&job.stage, job.attempt)));
    }
}

/// An attempt that was made but whose record was lost is still an attempt.
fn adopt_attempt(stage: &mut StageStatus, seen: &Observed) {
    let newest = seen.newest_job(&stage.name).map_or(0, |job| job.attempt);
    stage.attempt = stage.attempt.max(newest);
}

/// Whether its trainer said that what it should score is not there.
fn misses_its_checkpoint(stage: &StageStatus, seen: &Observed) -> bool {
    let report = seen
        .report
        .as_ref()
        .filter(|report| report.run.stage == stage.name);

    report
        .and_then(|report| report.evaluation.as_ref())
        .is_some_and(|found| found.missing)
}

fn on_record(stage: &StageStatus, failure: &Failure, seen: &Observed) -> LastFailure {
    LastFailure {
        class: failure.class.name().to_owned(),
        stage: stage.name.clone(),
        attempt: stage.attempt,
        step: stage.reported_at.is_some().then_some(stage.step),
        exit_code: failure.exit_code,
        node: failure.node.clone(),
        message: failure.message.clone(),
        at: time::rfc3339(seen.now),
    }
}

/// Time counts while the run is held back, but does not end it then.
fn over_time(work: &Work, ledger: &Ledger, seen: &Observed) -> Option<Failure> {
    let limit = work.deadline_seconds.filter(|_| !work.suspend)?;
    let started = ledger.started_at.as_ref()?;
    (time::seconds_since(started, seen.now) > limit).then(|| {
        let message = format!("not done {limit} s after the first pod (spec.deadlineSeconds)");
        Failure::new(Class::Deadline, message)
    })
}

fn full_stop(sentence: &str) -> String {
    let sentence = sentence.trim_end();
    let ends = sentence.ends_with(['.', '!', '?', '。']);
    if ends {
        sentence.to_owned()
    } else {
        format!("{sentence}.")
    }
}
