//! `tallyhouse service`: installs, removes or prints the service.

use std::error::Error;
use std::process::ExitCode;

use tallyhouse::service_unit::{Layout, install, uninstall, unit};
use tallyhouse_service::env::Env;

use crate::cli::{Place, Service};

#[allow(clippy::print_stdout, reason = "the answer to a command")]
pub(crate) fn service(env: &dyn Env, what: Service) -> Result<ExitCode, Box<dyn Error>> {
    let layout = |Place { prefix, root }: Place| Layout { prefix, root };
    let told = match what {
        Service::Install(place) => install(&layout(place), env)?,
        Service::Uninstall(place) => uninstall(&layout(place))?,
        Service::Unit(place) => {
            print!("{}", unit(&place.prefix, env)?);
            return Ok(ExitCode::SUCCESS);
        }
    };
    told.iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::SUCCESS)
}
