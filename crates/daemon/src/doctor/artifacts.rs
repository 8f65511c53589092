//! Check: the kernels on this host are intact, byte by byte, and the images as far as a quick check tells.

use super::{Check, Host, fail, pass};
use crate::failures::Explain as _;
use banger_artifacts::{
    image::Image,
    job::{Cancel, Job, Silent},
    kernel::{Kernel, KernelError},
};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;
use std::{fs, path::Path};

const NAME: &str = "kernels and images";

pub(super) struct Artifacts;

impl Check for Artifacts {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let kernels = names(&host.layout.kernels());
        let images = names(&host.layout.images());
        let bad_kernels = kernels.iter().filter_map(|name| {
            let why = kernel(&host.layout.kernels().join(name), name).err()?;
            Some(damaged(&format!("kernel {name} is {why}"), &format!("banger kernel pull --force {name}")))
        });
        let bad_images = images.iter().filter_map(|name| image(&host.layout.images().join(name), name).err());
        let mut found: Vec<Finding> = bad_kernels.chain(bad_images).collect();
        if found.is_empty() {
            let (kernels, images) = (kernels.len(), images.len());
            found.push(pass(
                NAME,
                match (kernels, images) {
                    (0, 0) => "none here yet; the first banger vm run pulls them".to_owned(),
                    _ => format!("{} and {}", count(kernels, "kernel"), count(images, "image")),
                },
            ));
        }
        Box::pin(std::future::ready(found))
    }
}

fn damaged(message: &str, mend: &str) -> Finding {
    let mut finding = fail(NAME, message);
    finding.hints.push(mend.to_owned());
    finding
}

/// Published directories; one that is still being made begins with a dot.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Verifies all files of a kernel; the error says how they differ.
fn kernel(directory: &Path, name: &str) -> Result<(), String> {
    // The first words of the error only name the kernel.
    let why = |error: KernelError| -> String {
        let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        if causes.is_empty() { error.to_string() } else { causes.join(": ") }
    };
    let name = name.parse().map_err(|error| format!("no kernel of banger's: {error}"))?;
    let kernel = Kernel::read(directory, &name).map_err(|error| format!("damaged: {}", why(error)))?;
    let cancel = Cancel::default();
    kernel.verify(&Job { progress: &Silent, cancel: &cancel }).map_err(|error| format!("modified: {}", why(error)))
}

/// Checks an image as a start would.
fn image(directory: &Path, name: &str) -> Result<(), Finding> {
    let delete = || format!("banger image delete {name}");
    let id =
        name.parse().map_err(|error| damaged(&format!("image {name} is no image of banger's: {error}"), &delete()))?;
    Image::read(directory, &id).and_then(|image| image.quick_check(&id)).map_err(|error| {
        let failure = error.explain();
        let mut finding = fail(NAME, failure.message);
        finding.causes = failure.causes;
        finding.hints = failure.hints;
        if finding.hints.is_empty() {
            finding.hints.push(format!("ls -l {}", directory.display()));
        }
        finding
    })
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn damage_is_found_with_the_command_that_mends_it() {
        let bench = Bench::new();
        let (verdict, text) = bench.run(&Artifacts).await.remove(0);
        assert!(verdict == Verdict::Pass && text.contains("none here yet"), "{text}");
        bench.write("s/kernels/debian-6.1/vmlinux", "ELF");
        bench.write("s/images/0123456789abcdef/manifest.json", "{");
        bench.write("s/images/.staging/x", "");
        let found = bench.run(&Artifacts).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].0 == Verdict::Fail && found[0].1.contains("kernel pull --force debian-6.1"), "{found:?}");
        assert!(found[1].1.contains("image delete 0123456789abcdef"), "{found:?}");
    }
}
