//! `banger ssh-proxy`, the proxy command that ssh runs instead of connecting to a host.

use crate::{
    context::Context,
    exec::{
        session::{Ended, Session},
        stdin,
        stream_writer::StreamWriter,
    },
    exit::{Error, Result, Status, internal},
    guest,
    ssh::{
        access::{access, vm_of},
        sshd::{NO_SSHD, connection},
    },
};
use banger_proto::failure::{Code, Failure};
use clap::Args;
use tokio::sync::mpsc;

/// `banger ssh-proxy`.
#[derive(Debug, Args)]
pub(crate) struct SshProxyArgs {
    /// The VM, with or without .vm
    host: String,
}

/// Connects stdin and stdout to an sshd in the VM.
pub(crate) async fn run(context: &Context, args: &SshProxyArgs) -> Result {
    let vm = vm_of(&args.host);
    let endpoint = guest::endpoint(context, vm).await?;
    let access = access(context, endpoint.id.as_str()).await?;
    let stream = guest::call(&endpoint).await?;
    let session = Session::start(stream, &connection(&access)).await?;
    let writer = |stream: std::io::Result<StreamWriter>| stream.map_err(|error| internal("cannot use stdout", &error));
    let (_, control) = mpsc::unbounded_channel();
    let (stdout, stderr) =
        (writer(StreamWriter::new(std::io::stdout()))?, writer(StreamWriter::new(std::io::stderr()))?);
    match session.run(stdin::read_stdin(), control, stdout, stderr).await? {
        Ended::Outcome(outcome) if outcome.code() == NO_SSHD => {
            let failure = Failure::new(Code::Unsupported, format!("VM {} has no sshd", endpoint.name));
            let failure = failure.hint(format!("banger vm exec -t {} gives a shell without it", endpoint.name));
            Err(failure.hint("an image with openssh-server has one").into())
        }
        // ssh itself reports how the connection ended; sshd's own exit status means little.
        Ended::Outcome(outcome) if matches!(outcome.code(), 0 | 255) => Ok(Status::Done),
        Ended::Outcome(outcome) => {
            let failure =
                Failure::new(Code::Guest, format!("sshd in VM {} ended with {}", endpoint.name, outcome.code()));
            Err(failure.hint(format!("banger vm exec -t {} gives a shell without it", endpoint.name)).into())
        }
        Ended::ClosedPipe => Err(Error::Pipe),
        Ended::Abandoned(signal) => Err(Error::Interrupted { signal, on_interrupt: "interrupted".into() }),
    }
}
