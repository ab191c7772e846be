//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is what the guest boots.
type kernel struct {
	image   string // the compressed kernel
	modules string // folder of its modules
}

// parts are the folders of modules that hold what hci_vhci needs.
func parts() []string {
	return []string{"net/bluetooth", "net/rfkill", "drivers/bluetooth", "crypto", "lib"}
}

// findKernel takes Debian's kernel from the cache, where it is put first if need be.
func findKernel(ctx context.Context, cache string, progress io.Writer) (kernel, error) {
	if k, ok := cached(cache); ok {
		return k, nil
	}
	name, err := kernelPackage(ctx)
	if err != nil {
		return kernel{}, err
	}
	fmt.Fprintf(progress, "ble-guest: downloading %s, 70 MB, once\n", name)
	if err := unpackKernel(ctx, cache, name); err != nil {
		return kernel{}, err
	}
	if k, ok := cached(cache); ok {
		return k, nil
	}
	return kernel{}, fmt.Errorf("package %s has no kernel in boot: %w", name, errMissing)
}

// cached finds a kernel in the cache, whichever is there: a folder gets its name once it is complete.
func cached(cache string) (kernel, bool) {
	images, err := filepath.Glob(filepath.Join(cache, "linux-image-*", "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return kernel{}, false
	}
	slices.Sort(images)
	image := images[len(images)-1]
	version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
	return kernel{image, filepath.Join(filepath.Dir(filepath.Dir(image)), "lib", "modules", version, "kernel")}, true
}

// kernelPackage asks apt which kernel the distribution has.
func kernelPackage(ctx context.Context) (string, error) {
	out, err := output(ctx, "", "apt-cache", "depends", "linux-image-amd64")
	if err != nil {
		return "", fmt.Errorf("Debian's kernel %w: %w", errMissing, err) //nolint:staticcheck // a name
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", fmt.Errorf("Debian's kernel %w: apt knows no linux-image-amd64", errMissing) //nolint:staticcheck // a name
}

// unpackKernel downloads a package and takes from it what the guest needs. Neither needs root.
func unpackKernel(ctx context.Context, cache, name string) (err error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	part, err := os.MkdirTemp(cache, "part-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	if _, err := output(ctx, part, "apt-get", "download", "-q", name); err != nil {
		return fmt.Errorf("kernel %s %w: %w", name, errMissing, err)
	}
	debs, err := filepath.Glob(filepath.Join(part, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: want one file, got %v", name, debs)
	}
	version := strings.TrimPrefix(name, "linux-image-")
	wanted := []string{"./boot/vmlinuz-" + version}
	for _, p := range parts() {
		wanted = append(wanted, "./lib/modules/"+version+"/kernel/"+p)
	}
	if err := extract(ctx, debs[0], part, wanted); err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := os.Remove(debs[0]); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(cache, name))
}

// extract unpacks files and folders of a package into a folder.
func extract(ctx context.Context, deb, dir string, wanted []string) error {
	list := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	unpack := exec.CommandContext(ctx, "tar", append([]string{"-x", "-C", dir}, wanted...)...)
	pipe, err := list.StdoutPipe()
	if err != nil {
		return err
	}
	unpack.Stdin = pipe
	var failure bytes.Buffer
	unpack.Stderr, list.Stderr = &failure, &failure
	if err := list.Start(); err != nil {
		return err
	}
	err = unpack.Run()
	if err = errors.Join(err, list.Wait()); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(failure.Bytes()))
	}
	return nil
}

// output runs a program in a folder and returns what it prints.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(failure.Bytes()))
	}
	return string(out), nil
}
