//go:build unix

package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics"
)

// Sizes of the processes' disks, MiB.
const (
	serveDisk   = 192
	edgeDisk    = 24
	machineDisk = 8
)

// patience is how long a link must be stable and a clock right before its fault closes, and how long a slot that its
// gateway left stands: short, so that a run need not wait for the minutes that these take in earnest.
const patience = 5 * time.Second

// tapsPerHour is what each machine sells.
const tapsPerHour = 14_400

// world is the system under test with what stands between its parts.
type world struct {
	dir      string
	seed     uint64
	binary   string
	address  string // of the broker
	master   *keys.Master
	calm     atomic.Bool // links are not lost by chance
	noDisk   error       // why processes have no disks of their own
	order    []*process
	procs    map[string]*process
	uplinks  map[string]*proxy // by process
	radios   map[string]*proxy // by machine's process
	progress io.Writer

	mu        sync.Mutex
	witnessed []Stored
	at        []time.Time // of the witnessed
}

// newWorld makes everything but the running processes.
func newWorld(ctx context.Context, dir string, seed uint64, race bool, progress io.Writer) (w *world, err error) {
	w = &world{dir: dir, seed: seed, procs: map[string]*process{}, uplinks: map[string]*proxy{}, radios: map[string]*proxy{}, progress: progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	w.calm.Store(true)
	w.binary = filepath.Join(dir, "farebeat")
	args := []string{"build", "-o", w.binary}
	if race {
		args = append(args, "-race")
	}
	build := exec.CommandContext(ctx, "go", append(args, "./cmd/farebeat")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return w, fmt.Errorf("build farebeat: %w: run it in the project's folder", err)
	}
	for _, d := range []string{"logs", "keys", "air", "sky"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return w, err
		}
	}
	if w.master, _, err = keys.LoadOrCreate(filepath.Join(dir, "keys", "master.key")); err != nil {
		return w, err
	}
	if err := w.addServe(); err != nil {
		return w, err
	}
	for v := 1; v <= vehicles; v++ {
		if err := w.addVehicle(ctx, v); err != nil {
			return w, err
		}
	}
	return w, w.writeUsers()
}

const rulesText = `machine:
  silence: 6s
  unsent_after: 2s
route:
  for: {m: 2, of: 3, every: 1s}
  keep_firing_for: 2s
  silent_after: 6s
`

func (w *world) addServe() error {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // local
	if err != nil {
		return err
	}
	w.address = l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	var expected []string
	for v := 1; v <= vehicles; v++ {
		expected = append(expected, fmt.Sprintf(`{route: R%d, hours: "00-24", expected: %d}`, v, perVehicle))
	}
	config := fmt.Sprintf(`operator: crash
log: {level: debug}
broker:
  listeners: [{name: mqtt, kind: tcp, address: "%s"}]
  users_file: %s
  metrics_address: ""
console: {address: ""}
fleet: {rules_file: %s, master_key_file: %s, heartbeat_interval: 1s, tick: 500ms, expected: [%s]}
edge: {recollect_every: 2s}
machine: {taps_per_hour: %d}
`, w.address, w.path("users"), w.path("rules.yaml"), w.path("keys", "master.key"), strings.Join(expected, ", "), tapsPerHour)
	if err := errors.Join(os.WriteFile(w.path("crash.yaml"), []byte(config), 0o600), os.WriteFile(w.path("rules.yaml"), []byte(rulesText), 0o600)); err != nil {
		return err
	}
	return w.add(&process{name: serveName, kind: kindServe}, serveDisk, func() []string {
		return []string{"serve", "--patience", patience.String()}
	})
}

// addVehicle adds a gateway and its machines.
func (w *world) addVehicle(ctx context.Context, v int) error {
	vehicle := fmt.Sprint(v)
	air, sky := w.path("air", vehicle), w.path("sky", vehicle)
	if err := errors.Join(os.MkdirAll(air, 0o700), os.MkdirAll(sky, 0o700)); err != nil {
		return err
	}
	err := w.addClient(&process{name: "edge-" + vehicle, kind: kindEdge}, edgeDisk, "edge", "--vehicle", vehicle, "--radio", "socket:"+sky)
	for m := 1; err == nil && m <= perVehicle; m++ {
		id := fmt.Sprintf("%d-%d", v, m)
		name := "machine-" + id
		var key [keys.Size]byte
		if key, err = w.master.Machine(ctx, id); err != nil {
			break
		}
		keyFile := w.path("keys", id)
		if err = os.WriteFile(keyFile, []byte(hex.EncodeToString(key[:])), 0o600); err != nil {
			break
		}
		socket := url.PathEscape(id) + ".sock"
		w.radios[name], err = newProxy("unix", filepath.Join(sky, socket), filepath.Join(air, socket), w.seed, uint64(100+10*v+m), &w.calm)
		if err != nil {
			break
		}
		err = w.addClient(&process{name: name, kind: kindMachine, line: func(b []byte) { w.witness(id, b) }}, machineDisk,
			"machine", "run", "--id", id, "--vehicle", vehicle, "--route", "R"+vehicle, "--key-file", keyFile, "--radio", "socket:"+air,
			"--heartbeat", "1s", "--journal-log")
	}
	return err
}

// addClient adds a process that reaches the broker through a proxy.
func (w *world) addClient(p *process, mebibytes int, args ...string) error {
	up, err := newProxy("tcp", "127.0.0.1:0", w.address, w.seed, uint64(len(w.order)), &w.calm)
	if err != nil {
		return err
	}
	w.uplinks[p.name] = up
	return w.add(p, mebibytes, func() []string {
		return append(args, "--set", "client.server=tcp://"+up.address(), "--set", "client.username="+p.name, "--set", "client.password_file="+w.path("keys", p.name+".password"))
	})
}

func (w *world) add(p *process, mebibytes int, args func() []string) error {
	p.binary, p.dir, p.logs = w.binary, w.path("data", p.name), w.path("logs")
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if err := mountDisk(p.dir, mebibytes); err != nil {
		w.noDisk = err
	} else {
		p.mounted = true
	}
	p.args = func(offset time.Duration) []string {
		return append(args(), "--config", w.path("crash.yaml"), "--set", "data="+p.dir, "--clock-offset", offset.String())
	}
	w.order = append(w.order, p)
	w.procs[p.name] = p
	return nil
}

// writeUsers makes the users file and the password files.
func (w *world) writeUsers() error {
	var lines strings.Builder
	add := func(u broker.User) error {
		secret, hash := broker.NewSecret()
		u.Hash = hash
		lines.WriteString(u.Line() + "\n")
		return os.WriteFile(w.path("keys", u.Name+".password"), []byte(secret), 0o600)
	}
	err := add(broker.User{Name: "viewer", Role: topics.RoleViewer})
	for _, p := range w.order {
		switch p.kind {
		case kindEdge:
			err = errors.Join(err, add(broker.User{Name: p.name, Role: topics.RoleGateway, ID: strings.TrimPrefix(p.name, "edge-")}))
		case kindMachine:
			err = errors.Join(err, add(broker.User{Name: p.name, Role: topics.RoleMachine, ID: machineID(p.name)}))
		}
	}
	return errors.Join(err, os.WriteFile(w.path("users"), []byte(lines.String()), 0o600))
}

func machineID(name string) string { return strings.TrimPrefix(name, "machine-") }

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// witness takes what a machine says that its disk has.
func (w *world) witness(machine string, line []byte) {
	var l struct {
		Epoch  uint32 `json:"epoch"`
		Seq    uint32 `json:"seq"`
		SHA256 string `json:"sha256"`
		Amount int64  `json:"amount"`
	}
	if err := json.Unmarshal(line, &l); err != nil || l.SHA256 == "" {
		fmt.Fprintf(w.progress, "crash: machine %s printed %q\n", machine, line)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.witnessed = append(w.witnessed, Stored{Key{machine, l.Epoch, l.Seq}, l.SHA256, l.Amount})
	w.at = append(w.at, time.Now())
}

func (w *world) seen() ([]Stored, []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.witnessed[:len(w.witnessed):len(w.witnessed)], w.at[:len(w.at):len(w.at)]
}

func (w *world) startAll() error {
	for _, p := range w.order {
		if err := p.revive(); err != nil {
			return err
		}
	}
	return nil
}

// close kills what runs and gives disks and ports back. The files stay, but for those on disks of their own: see keep.
func (w *world) close() error {
	var err error
	for _, p := range w.order {
		p.kill()
		if p.mounted {
			err = errors.Join(err, unmountDisk(p.dir))
			p.mounted = false
		}
	}
	for _, list := range []map[string]*proxy{w.uplinks, w.radios} {
		for _, p := range list {
			p.close()
		}
	}
	return err
}

// keep copies what is on disks of their own beside the logs, where it outlives them.
func (w *world) keep() error {
	var err error
	for _, p := range w.order {
		if p.mounted {
			p.kill()
			err = errors.Join(err, freeDisk(p.dir), os.CopyFS(w.path("kept", p.name), os.DirFS(p.dir)))
		}
	}
	return err
}
