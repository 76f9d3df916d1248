// SPDX-License-Identifier: Apache-2.0
//! `remora`: what a person or a cluster runs beside the proxies.
//!
//! It answers for the command line, for what is printed, and for exit codes: 0 if all is well, 1 if
//! something failed or was found to be wrong, 2 if the command line cannot be read. What is done is
//! the libraries' business; each subcommand is a module that calls one of them.

mod analyze;
mod cli;
mod control_plane;
mod output;
mod status;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("remora: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::ControlPlane(args) => {
            control_plane::set_up_logs(&args.logs)?;
            runtime()?.block_on(Box::pin(control_plane::run(*args)))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Analyze(args) => analyze::run(&args),
        Command::Status(args) => {
            runtime()?.block_on(status::run(&args))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}
