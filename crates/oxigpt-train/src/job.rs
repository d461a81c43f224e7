//! From a request to a run that is possible: its directory, data, model, plan and memory, all checked.

use std::path::PathBuf;

use oxigpt_compute::Plan;
use oxigpt_model::{ModelConfig, TrainPlan};

use crate::checkpoint::{self, Checkpoint};
use crate::corpus::Corpus;
use crate::error::Error;
use crate::estimate::Estimate;
use crate::machine;
use crate::resume;
use crate::run_dir::{self, RunDir};
use crate::sampler::Sampler;
use crate::settings::Settings;

/// A request that has been found to be possible.
pub(crate) struct Job {
    pub(crate) settings: Settings,
    /// Where the run goes on; a new one has no directory yet.
    pub(crate) dir: Option<RunDir>,
    pub(crate) corpus: Corpus,
    pub(crate) config: ModelConfig,
    pub(crate) plan: Plan,
    pub(crate) handles: TrainPlan,
    pub(crate) estimate: Estimate,
    pub(crate) sampler: Option<Sampler>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) warnings: Vec<String>,
}

impl Job {
    /// Checks everything that can be checked before anything is allocated or written.
    pub(crate) fn check(mut settings: Settings) -> Result<Job, Error> {
        let root = PathBuf::from(&settings.out_dir);
        let mut warnings = Vec::new();
        let (mut dir, mut checkpoint) = (None, None);
        match settings.init_from.as_str() {
            "scratch" => run_dir::check_vacant(&root)?,
            "resume" => {
                settings.init_from = "scratch".into();
                dir = Some(RunDir::resume(&root)?);
                checkpoint::clean_up(&root)?;
                checkpoint = checkpoint::open_latest(&root, &mut warnings)?;
                if checkpoint.is_none() {
                    warnings.push("there is no checkpoint yet: the run begins again".into());
                }
            }
            value => return Err(Error::InitFrom { value: value.into() }),
        }
        if u32::try_from(settings.max_iters).is_err() {
            return Err(Error::TooManySteps { max_iters: settings.max_iters });
        }
        let corpus = Corpus::open(&settings)?;
        let config = settings.model_config(corpus.vocab_size);
        warnings.extend(corpus.unused_vocabulary());
        if let Some(checkpoint) = &checkpoint {
            resume::check(&checkpoint.state, &settings, corpus.dataset.dir(), &corpus.hash)?;
        }
        let sampler = Sampler::new(&settings, &corpus, &mut warnings)?;
        let (plan, handles) = TrainPlan::build(&config, &settings.train_shape())?;
        let estimate = Estimate::of_plan(&settings, &config, &plan, &handles);
        let needed = (estimate.memory_bytes + estimate.checkpoint_buffer_bytes) as u64;
        if let Some(available) = machine::available_memory().filter(|&available| available < needed) {
            return Err(Error::Memory { needed, available });
        }
        Ok(Job { settings, dir, corpus, config, plan, handles, estimate, sampler, checkpoint, warnings })
    }
}
