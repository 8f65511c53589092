//! Images that are a user's files, used in place.

use super::{ImageService, names::Claim, off_thread, recommended::say_what_changed, seconds};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
};
use banger_artifacts::{
    image::{Image, ImageError, KernelChoice},
    kernel::{Description, KernelError, LooseFiles},
};
use banger_machine::failpoint;
use banger_proto::{
    api::artifact::RegisterImage,
    failure::{Code, Failure},
    name::{ImageName, KernelName},
};
use std::{path::Path, sync::Arc, time::Instant};

impl ImageService {
    /// Registers a file as an image without copying it. A kernel file given with it is imported under the image's name:
    /// it is small, and a VM needs it unpacked and indexed anyway.
    pub(crate) async fn register_image(&self, request: RegisterImage, operation: &Operation) -> Result<Image, Failure> {
        check_shape(&request)?;
        let began = Instant::now();
        let RegisterImage { name, rootfs, kernel, default_kernel, kernel_file, initrd, modules, force } = request;
        if let Some(kernel) = &kernel {
            self.ensure_kernel_known(kernel).await?;
        }
        operation.begin(format!("registering image {name}"));
        let claim = Claim::own(force);
        // Inspected first, because it can fail: a kernel without its image would be left behind.
        let images = self.images.clone();
        let looked_at = rootfs.clone();
        let id = off_thread(move || images.inspect(&looked_at)).await.map_err(unfit)?;
        self.check_name_free(&name, Some(&id), &claim).await?;
        let kernel = match (kernel_file, kernel) {
            (None, Some(kernel)) => KernelChoice::Named(kernel),
            (None, None) if default_kernel => KernelChoice::Default,
            (None, None) => KernelChoice::Unchanged,
            (Some(file), _) => {
                let kernel = kernel_name_for(&name)?;
                let files = LooseFiles { kernel: file, initrd, modules };
                self.import_files(&kernel, files, force, operation).await?;
                failpoint::hit("register.imported").await;
                KernelChoice::Named(kernel)
            }
        };
        // Registered and named under one lock: without a name, nothing keeps the image here.
        let _removal_lock = self.removal_lock.write().await;
        self.check_name_free(&name, Some(&id), &claim).await?;
        let (images, inspected) = (self.images.clone(), id.clone());
        let before = off_thread(move || images.get(&inspected)).await.ok().map(|image| image.manifest.kernel);
        let image = self.register_file(&name, &rootfs, kernel, operation).await?;
        if image.manifest.id == id {
            if let Some(before) = before {
                say_what_changed(before.as_ref(), image.manifest.kernel.as_ref(), operation);
            }
        } else if let Err(taken) = self.check_name_free(&name, Some(&image.manifest.id), &claim).await {
            // The file was changed since it was inspected, and the name belongs to what it was.
            self.drop_unused(&image.manifest.id, operation).await?;
            return Err(taken);
        }
        failpoint::hit("register.made").await;
        self.give_name_locked(&name, &image.manifest.id, &claim, operation).await?;
        operation.notice(format!("registered image {name} in {}", seconds(began)));
        Ok(image)
    }

    async fn register_file(
        &self,
        name: &ImageName,
        rootfs: &Path,
        kernel: KernelChoice,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        let (images, name, rootfs) = (self.images.clone(), name.clone(), rootfs.to_owned());
        blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            images.register(&name, &rootfs, kernel, &job)
        })
        .await
        .map_err(unfit)
    }

    async fn import_files(
        &self,
        kernel: &KernelName,
        files: LooseFiles,
        force: bool,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let (kernels, named) = (self.kernels.clone(), kernel.clone());
        let imported = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            kernels.import_files(&named, &files, &Description::default(), force, &job)
        });
        imported.await.map(drop).map_err(|error| {
            let is_taken = matches!(error, KernelError::AlreadyExists { .. });
            let failure = error.explain();
            if is_taken {
                failure.hint(format!("--kernel {kernel} uses it as it is; --force replaces it"))
            } else {
                failure
            }
        })
    }
}

/// Adds a hint about what a file must be to serve as an image.
fn unfit(error: ImageError) -> Failure {
    let unfit = matches!(&error, ImageError::Register { source, .. } if source.unreadable().is_none());
    let failure = error.explain();
    if unfit {
        failure.hint("an image is an ext4 file system in a file, unmounted; `e2fsck -f FILE` checks one")
    } else {
        failure
    }
}

fn check_shape(request: &RegisterImage) -> Result<(), Failure> {
    let files = [&request.kernel_file, &request.initrd, &request.modules];
    let paths = files.into_iter().flatten().chain([&request.rootfs]);
    for path in paths {
        if !path.is_absolute() {
            return Err(Failure::new(Code::Invalid, format!("{} is not an absolute path", path.display())));
        }
    }
    if request.kernel.is_some() && files.iter().any(|file| file.is_some()) {
        return Err(Failure::new(Code::Invalid, "a kernel's name and a kernel's files exclude each other"));
    }
    if request.default_kernel && (request.kernel.is_some() || files.iter().any(|file| file.is_some())) {
        return Err(Failure::new(Code::Invalid, "the default kernel and another one exclude each other"));
    }
    if request.kernel_file.is_none() && files.iter().any(|file| file.is_some()) {
        return Err(Failure::new(Code::Invalid, "--initrd and --modules need --kernel-file"));
    }
    Ok(())
}

/// Name of the kernel imported with an image: the image's, with characters replaced that a kernel's name cannot have.
fn kernel_name_for(image: &ImageName) -> Result<KernelName, Failure> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = image.as_str().chars().map(plain).take(64).collect();
    name.replace("..", "-.").parse().map_err(|error: banger_proto::name::InvalidName| {
        Failure::new(Code::Invalid, error.to_string())
            .hint("import the kernel under a name of its own (`banger kernel import`) and give it with --kernel")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_like_its_image_as_far_as_it_can_be() {
        for (image, kernel) in [
            ("my", "my"),
            ("alpine:3.20", "alpine-3.20"),
            ("registry.local:5000/team/app:v1", "registry.local-5000-team-app-v1"),
            ("a..b", "a-.b"),
        ] {
            assert_eq!(kernel_name_for(&image.parse().unwrap()).unwrap().as_str(), kernel);
        }
        assert_eq!(kernel_name_for(&"x".repeat(200).parse().unwrap()).unwrap().as_str().len(), 64);
    }

    #[test]
    fn forms_that_exclude_each_other_are_refused() {
        let plain = RegisterImage {
            name: "my".parse().unwrap(),
            rootfs: "/r".into(),
            kernel: None,
            default_kernel: false,
            kernel_file: None,
            initrd: None,
            modules: None,
            force: false,
        };
        check_shape(&plain).unwrap();
        check_shape(&RegisterImage { kernel_file: Some("/k".into()), initrd: Some("/i".into()), ..plain.clone() })
            .unwrap();
        check_shape(&RegisterImage { default_kernel: true, ..plain.clone() }).unwrap();
        let (kernel, file) = (Some("k-1.0".parse().unwrap()), Some("/k".into()));
        for bad in [
            RegisterImage { rootfs: "r".into(), ..plain.clone() },
            RegisterImage { default_kernel: true, kernel: kernel.clone(), ..plain.clone() },
            RegisterImage { default_kernel: true, kernel_file: file.clone(), ..plain.clone() },
            RegisterImage { kernel: kernel.clone(), kernel_file: file, ..plain.clone() },
            RegisterImage { kernel, modules: Some("/m".into()), ..plain.clone() },
            RegisterImage { initrd: Some("/i".into()), ..plain.clone() },
            RegisterImage { kernel_file: Some("k".into()), ..plain },
        ] {
            assert_eq!(check_shape(&bad).unwrap_err().code, Code::Invalid, "{bad:?}");
        }
    }
}
