// SPDX-License-Identifier: Apache-2.0
//! `remora-proxy`: the data plane of the mesh.

use std::process::ExitCode;

use clap::Parser as _;
use remora_proxy::cli::{Cli, Command};
use remora_proxy::{redirect, run};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Redirect(args) => redirect::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
