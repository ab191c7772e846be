//go:build unix

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/cmd/ble-guest/initrd"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics"
)

// How many vehicles and machines a vehicle the guest has keys and passwords for: one vehicle a scenario.
const (
	vehicles   = 24
	perVehicle = 4
)

const configText = `operator: guest
broker:
  listeners: [{name: mqtt, kind: tcp, address: "127.0.0.1:1883"}]
  users_file: /etc/farebeat/users
  metrics_address: ""
console: {address: ""}
fleet: {rules_file: /etc/farebeat/rules.yaml, master_key_file: /etc/farebeat/keys/master, heartbeat_interval: 1s, tick: 500ms}
edge: {recollect_every: 2s}
machine: {taps_per_hour: 0}
`

// Machines show soon that they have unsent records. Those of a scenario that is over are silent, and that is of no interest.
const rulesText = `machine:
  silence: 1h
  unsent_after: 2s
`

// makeImage builds the guest's programs and writes its first file system.
func makeImage(ctx context.Context, dir string, k kernel) (string, error) {
	files := map[string][]byte{}
	for name, pkg := range map[string]string{"init": "./cmd/ble-guest/init", "bin/farebeat": "./cmd/farebeat"} {
		content, err := build(ctx, dir, pkg)
		if err != nil {
			return "", err
		}
		files[name] = content
	}
	if err := addSettings(ctx, files); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "initrd.gz")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(writeImage(f, files, k), f.Close())
}

func writeImage(f *os.File, files map[string][]byte, k kernel) error {
	modules, err := initrd.Modules(k.modules, "hci_vhci")
	if err != nil {
		return err
	}
	for i, path := range modules {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files[fmt.Sprintf("modules/%02d-%s", i, filepath.Base(path))] = content
	}
	a := initrd.NewArchive(f)
	if err := a.Device("dev/console", 5, 1); err != nil { // of the first process, before it mounts the real folder
		return err
	}
	for name, content := range files {
		mode := uint32(0o600)
		if name == "init" || strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if err := a.File(name, mode, content); err != nil {
			return err
		}
	}
	return a.Close()
}

// build makes a program for the guest, which has no libraries.
func build(ctx context.Context, dir, pkg string) ([]byte, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build %s: %w: run it in the project's folder", pkg, err)
	}
	return os.ReadFile(out)
}

// addSettings adds the configuration, users, and keys.
func addSettings(ctx context.Context, files map[string][]byte) error {
	const folder = "etc/farebeat/"
	files[folder+"farebeat.yaml"], files[folder+"rules.yaml"] = []byte(configText), []byte(rulesText)
	master := make([]byte, keys.Size)
	copy(master, "the guest's machines") // nothing that it protects leaves the guest
	files[folder+"keys/master"] = []byte(hex.EncodeToString(master))
	derive, err := keys.NewMaster(master)
	if err != nil {
		return err
	}
	var users strings.Builder
	add := func(u broker.User) {
		secret, hash := broker.NewSecret()
		u.Hash = hash
		fmt.Fprintln(&users, u.Line())
		files[folder+"passwords/"+u.Name] = []byte(secret)
	}
	add(broker.User{Name: "watcher", Role: topics.RoleViewer})
	add(broker.User{Name: "operator", Role: topics.RoleOperator})
	for v := 1; v <= vehicles; v++ {
		add(broker.User{Name: fmt.Sprintf("edge-v%d", v), Role: topics.RoleGateway, ID: fmt.Sprintf("v%d", v)})
		for m := 1; m <= perVehicle; m++ {
			id := fmt.Sprintf("m%d-%d", v, m)
			key, err := derive.Machine(ctx, id)
			if err != nil {
				return err
			}
			add(broker.User{Name: "machine-" + id, Role: topics.RoleMachine, ID: id})
			files[folder+"keys/"+id] = []byte(hex.EncodeToString(key[:]))
		}
	}
	files[folder+"users"] = []byte(users.String())
	return nil
}
