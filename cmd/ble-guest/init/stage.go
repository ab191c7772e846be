//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/air"
	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

// scenario is one course of events over one vehicle's radio.
type scenario struct {
	name, about string
	mtu         int           // of the gateway; 0: the usual
	payload     int           // bytes of a link layer packet; 0: 251
	stocks      []int         // records that each machine stores; the default is one machine with 1,000
	alone       bool          // played first, with nothing beside it
	idle        bool          // the agent is measured while it has nothing to do
	onRequest   bool          // it takes long: played only where its name is given
	restarts    bool          // the worker is expected to end
	online      bool          // the machines reach the broker, and show by themselves that they have unsent records
	patience    time.Duration // for all records to be in the ledger; 3 min
	// prepare comes before the gateway starts, harm goes on beside it until all records are home, check comes last.
	prepare func(ctx context.Context, st *stage) error
	harm    func(ctx context.Context, st *stage) error
	check   func(st *stage) []string
}

// usualStock is how many records a machine stores.
const usualStock = 1000

// stage is a scenario in progress.
type stage struct {
	scenario
	world    *world
	number   int
	vehicle  string
	seed     uint64
	radio    *radio
	gateway  adapter
	machines []*machine
	edge     *process
	meter    meter
	notes    string

	impostors []*impostor
}

// machine is one of the vehicle's machines.
type machine struct {
	id      string
	stock   int
	adapter adapter
	process *process

	mu      sync.Mutex
	stored  map[key]string // SHA-256 of the record, by number
	strange int            // lines that are no record
}

func newStage(w *world, s scenario, number int, seed uint64) *stage {
	st := &stage{scenario: s, world: w, number: number, vehicle: vehicleID(number), seed: seed + uint64(number)}
	if len(st.stocks) == 0 {
		st.stocks = []int{usualStock}
	}
	if st.patience == 0 {
		st.patience = 3 * time.Minute
	}
	for i, n := range st.stocks {
		st.machines = append(st.machines, &machine{id: machineID(number, i+1), stock: n, stored: map[key]string{}})
	}
	return st
}

func vehicleID(number int) string       { return fmt.Sprintf("v%d", number) }
func machineID(vehicle, nth int) string { return fmt.Sprintf("m%d-%d", vehicle, nth) }
func (st *stage) edgeName() string      { return "edge-" + st.vehicle }
func (st *stage) programs() (names []string) {
	names = append(names, st.edgeName())
	for _, m := range st.machines {
		names = append(names, "machine-"+m.id)
	}
	return names
}

// run plays the scenario and says what became of the records.
func (st *stage) run(ctx context.Context) result.Scenario {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := result.Scenario{Number: st.number, Name: st.name, About: st.about}
	st.radio = newRadio(ctx, st.seed)
	defer st.radio.close()
	begun, err := st.play(ctx)
	if err != nil {
		out.Findings = append(out.Findings, err.Error())
	}
	var counts air.Counts
	st.radio.do(func(a *air.Air) { counts, out.Dials = a.Counts(), len(a.Requests()) })
	out.LinksLost = counts.LinksLost
	if counts.Overrun > 0 || counts.Malformed > 0 {
		out.Findings = append(out.Findings, fmt.Sprintf("a host broke the rules of HCI: %+v", counts))
	}
	if st.check != nil && err == nil {
		out.Findings = append(out.Findings, st.check(st)...)
	}
	out.Findings = append(out.Findings, st.stop()...)
	out.Agent, out.Worker, out.Workers = st.meter.agent, st.meter.worker(), len(st.meter.workers)
	if out.Workers > 1 && !st.restarts {
		out.Findings = append(out.Findings, fmt.Sprintf("the worker ended %d times", out.Workers-1))
	}
	if err := st.compare(ctx, &out); err != nil {
		out.Findings = append(out.Findings, err.Error())
	}
	st.times(&out, begun)
	if out.Records > 0 {
		out.OnAir = float64(counts.Bytes) / float64(out.Records)
	}
	out.Notes = st.notes
	return out
}

// play runs the programs until all records are in the ledger. It returns when the fault was told.
func (st *stage) play(ctx context.Context) (begun time.Time, err error) {
	if err := st.startMachines(ctx); err != nil {
		return begun, err
	}
	if st.prepare != nil {
		if err := st.prepare(ctx, st); err != nil {
			return begun, err
		}
	}
	if st.online {
		if err := until(ctx, time.Minute, "the fleet sees all machines' faults", st.allFaulty); err != nil {
			return begun, err
		}
		begun = time.Now()
	}
	if err := st.startEdge(); err != nil {
		return begun, err
	}
	if st.idle {
		if err := st.measureIdle(ctx); err != nil {
			return begun, err
		}
	}
	watching, enough := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer enough()
	beside.Go(func() { st.meter.watch(watching, st.edge.cmd.Process.Pid) })
	if !st.online {
		begun = time.Now()
		for _, m := range st.machines {
			if err := st.world.report(ctx, m.id, st.vehicle); err != nil {
				return begun, err
			}
		}
	}
	harmed := make(chan error, 1)
	go func() {
		if st.harm == nil {
			harmed <- nil
			return
		}
		harmed <- st.harm(watching, st)
	}()
	err = until(ctx, st.patience, "all records are in the ledger", st.allHome)
	if err != nil {
		err = errors.Join(err, st.standing())
	}
	enough()
	return begun, errors.Join(err, <-harmed)
}

// Where an agent without work should be, in KiB of resident memory.
const idleMost = 30 * 1024

// measureIdle looks at the agent and its worker when both have come to rest with an empty outbox.
func (st *stage) measureIdle(ctx context.Context) error {
	agent := st.edge.cmd.Process.Pid
	if err := until(ctx, time.Minute, "the agent has a worker", func() bool { _, ok := workerOf(agent); return ok }); err != nil {
		return err
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	err := until(ctx, time.Minute, fmt.Sprintf("both have less than %d MB", idleMost/1024), func() bool { // what starting took is given back in time
		a, _ := usage(agent)
		pid, _ := workerOf(agent)
		w, _ := usage(pid)
		st.notes = fmt.Sprintf("idle with an empty outbox: agent %.1f MB, worker %.1f MB resident", float64(a.ResidentKiB)/1024, float64(w.ResidentKiB)/1024)
		return a.ResidentKiB > 0 && a.ResidentKiB <= idleMost && w.ResidentKiB <= idleMost
	})
	if err != nil {
		return fmt.Errorf("%s: %w", st.notes, err)
	}
	return nil
}

func (st *stage) allFaulty() bool {
	for _, m := range st.machines {
		if st.world.watcher.machine(m.id).faulted.IsZero() {
			return false
		}
	}
	return true
}

func (st *stage) allHome() bool {
	for _, m := range st.machines {
		if st.world.watcher.machine(m.id).receipted < m.stock {
			return false
		}
	}
	return true
}

// standing says how far each machine's recovery is.
func (st *stage) standing() error {
	var errs []error
	for _, m := range st.machines {
		p := st.world.watcher.machine(m.id)
		errs = append(errs, fmt.Errorf("machine %s: %s, %d of %d read, %d in the ledger, %d attempts: %s", m.id, p.last.State, p.read, m.stock, p.receipted, p.last.Attempts, p.last.LastError))
	}
	return errors.Join(errs...)
}

// startMachines plugs in all adapters and starts the machines, each of which stores its records first.
func (st *stage) startMachines(ctx context.Context) (err error) {
	if st.gateway, err = st.plug(ctx, 0); err != nil {
		return err
	}
	for i, m := range st.machines {
		if m.adapter, err = st.plug(ctx, i+1); err != nil {
			return err
		}
		args := append([]string{
			"machine", "run", "--id", m.id, "--vehicle", st.vehicle, "--route", "R1", "--key-file", keysDir + "/" + m.id, "--ble", m.adapter.name,
			"--set", "data=" + workDir + "/machine-" + m.id, "--stock", strconv.Itoa(m.stock), "--journal-log", "--heartbeat", "1s",
		}, client("machine-"+m.id)...)
		if !st.online {
			args = append(args, "--offline")
		}
		if m.process, err = start("machine-"+m.id, m.witness, args...); err != nil {
			return err
		}
	}
	for _, m := range st.machines {
		if err := until(ctx, time.Minute, fmt.Sprintf("machine %s has stored %d records", m.id, m.stock), m.full); err != nil {
			return err
		}
	}
	return nil
}

// plug makes the vehicle's nth adapter: 0 is the gateway's.
func (st *stage) plug(ctx context.Context, nth int) (adapter, error) {
	st.world.plugging.Lock()
	a, err := st.radio.plug(st.settings(nth))
	st.world.plugging.Unlock()
	if err != nil {
		return a, err
	}
	return a, a.ready(ctx)
}

func (st *stage) settings(nth int) air.Settings {
	return air.Settings{Address: air.MakeAddress(uint16(nth)), LinkPayload: st.payload}
}

func (st *stage) startEdge() (err error) {
	name := "ble:" + st.gateway.name
	if st.mtu > 0 {
		name += ",mtu=" + strconv.Itoa(st.mtu)
	}
	args := append([]string{"edge", "--vehicle", st.vehicle, "--radio", name, "--set", "data=" + workDir + "/" + st.edgeName()}, client(st.edgeName())...)
	st.edge, err = start(st.edgeName(), nil, args...)
	return err
}

// stop ends the programs and says what was wrong with them.
func (st *stage) stop() (findings []string) {
	var list []*process
	if st.edge != nil {
		list = append(list, st.edge)
	}
	for _, m := range st.machines {
		if m.process != nil {
			list = append(list, m.process)
		}
	}
	for _, p := range list {
		if err := p.stop(); err != nil {
			findings = append(findings, err.Error())
		}
		findings = append(findings, alarms(p.name)...)
	}
	return findings
}

// times fills in how long it took.
func (st *stage) times(out *result.Scenario, begun time.Time) {
	for _, m := range st.machines {
		p := st.world.watcher.machine(m.id)
		if !p.contacted.IsZero() {
			out.Reading = max(out.Reading, p.readAt.Sub(p.contacted).Seconds())
		}
		out.Seconds = max(out.Seconds, p.homeAt.Sub(begun).Seconds())
	}
}
