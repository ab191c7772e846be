//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/air"
)

// scenarios are all there are, in the order in which they begin: those that take long first.
func scenarios() []scenario {
	return []scenario{
		{name: "plain", about: "MTU 247, link layer packets of 251 bytes, no fault", alone: true, idle: true},
		{name: "mtu23", about: "MTU 23", mtu: 23, patience: 6 * time.Minute},
		{name: "rogue", about: "seven impostors advertise as the machine and send garbage; it comes into reach when all were dialled", prepare: plugRogues, harm: meetRogues, check: metRogues, patience: 5 * time.Minute},
		{name: "links-lost", about: "three links lost at random, 2 s of silence, 5 % of all packets lost and sent again", prepare: loseLinks, harm: silence, check: sawLosses},
		{name: "worker-killed", about: "the worker gets SIGKILL three times while it reads", harm: killWorkers, restarts: true},
		{name: "slow", about: "the agent is stopped for 3 s and for 12 s while it reads", harm: stopAgent},
		{name: "unplugged", about: "the gateway's adapter is unplugged while it reads and plugged in again 2 s later", harm: unplug, restarts: true},
		{name: "ll27", about: "MTU 247 over link layer packets of 27 bytes: no data length extension", payload: 27},
		{name: "adverts", about: "twelve devices send malformed advertisements, 240 a second", prepare: sendGarbage},
		{
			name: "twenty", about: "20 machines in sight, 3 of them faulty: only those are dialled, by money at risk", online: true,
			stocks: []int{200, 500, 300}, prepare: addBystanders, check: dialledByMoney,
		},
		{
			name: "crowd", about: "twelve nearer devices advertise as the machine and never take a connection", prepare: addCrowd,
			onRequest: true, patience: 8 * time.Minute,
		},
	}
}

// choose picks scenarios by their names, separated by commas; none: all but those that are played on request only.
func choose(names string) ([]scenario, error) {
	all := scenarios()
	if names == "" {
		return slices.DeleteFunc(all, func(s scenario) bool { return s.onRequest }), nil
	}
	var out []scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == name })
		if i < 0 {
			var known []string
			for _, s := range all {
				known = append(known, s.name)
			}
			return nil, fmt.Errorf("no scenario %q: there are %s", name, strings.Join(known, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// loseLinks loses links after some of the about 2,500 data packets that 1,000 records take.
func loseLinks(_ context.Context, st *stage) error {
	st.radio.do(func(a *air.Air) {
		a.LoseLinks(st.gateway.Address, 3, 200, 700)
		a.LosePackets(0.05)
	})
	return nil
}

// silence is shorter than the supervision timeout: no link ends.
func silence(ctx context.Context, st *stage) error {
	if err := st.reading(ctx, 500); err != nil {
		return err
	}
	st.radio.do(func(a *air.Air) { a.Mute(time.Now().Add(2 * time.Second)) })
	return nil
}

func sawLosses(st *stage) (findings []string) {
	st.radio.do(func(a *air.Air) {
		if n := a.Counts().LinksLost; n != 3 {
			findings = append(findings, fmt.Sprintf("%d links were lost, want 3", n))
		}
	})
	return findings
}

// reading waits until the gateway has read some records of the first machine.
func (st *stage) reading(ctx context.Context, records int) error {
	return until(ctx, st.patience, fmt.Sprintf("the gateway has read %d records", records), func() bool {
		return st.world.watcher.machine(st.machines[0].id).read >= records
	})
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func unplug(ctx context.Context, st *stage) error {
	if err := st.reading(ctx, 200); err != nil {
		return err
	}
	st.world.plugging.Lock()
	defer st.world.plugging.Unlock()
	st.radio.unplug(st.gateway)
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	a, err := st.radio.plug(st.settings(0))
	if err == nil && a.name != st.gateway.name {
		err = fmt.Errorf("the adapter that was plugged in again is %s, it was %s", a.name, st.gateway.name)
	}
	st.notes = fmt.Sprintf("unplugged after %d records", st.world.watcher.machine(st.machines[0].id).read)
	return err
}

func killWorkers(ctx context.Context, st *stage) error {
	for _, records := range []int{100, 350, 600} {
		if err := st.reading(ctx, records); err != nil {
			return err
		}
		pid, ok := workerOf(st.edge.cmd.Process.Pid)
		if !ok {
			return fmt.Errorf("after %d records no worker runs", records)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill the worker: %w", err)
		}
		st.notes += fmt.Sprintf("killed after %d records; ", st.world.watcher.machine(st.machines[0].id).read)
		if err := until(ctx, st.patience, "a new worker runs", func() bool {
			next, ok := workerOf(st.edge.cmd.Process.Pid)
			return ok && next != pid
		}); err != nil {
			return err
		}
	}
	st.notes = strings.TrimSuffix(st.notes, "; ")
	return nil
}

func stopAgent(ctx context.Context, st *stage) error {
	pid := st.edge.cmd.Process.Pid
	for _, s := range []struct {
		records int
		length  time.Duration
	}{{100, 3 * time.Second}, {400, 12 * time.Second}} {
		if err := st.reading(ctx, s.records); err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return fmt.Errorf("stop the agent: %w", err)
		}
		st.notes += fmt.Sprintf("stopped after %d records; ", st.world.watcher.machine(st.machines[0].id).read)
		err := pause(ctx, s.length)
		if resume := syscall.Kill(pid, syscall.SIGCONT); resume != nil {
			return fmt.Errorf("resume the agent: %w", resume)
		}
		if err != nil {
			return err
		}
	}
	st.notes = strings.TrimSuffix(st.notes, "; ")
	return nil
}

// dialledByMoney checks whom the gateway asked for a connection: the faulty machines alone, the one with the most money first.
func dialledByMoney(st *stage) (findings []string) {
	byMoney := slices.SortedFunc(slices.Values(st.machines), func(a, b *machine) int { return cmp.Compare(b.stock, a.stock) })
	var want, got []string
	for _, m := range byMoney {
		want = append(want, m.adapter.Address.String())
	}
	st.radio.do(func(a *air.Air) {
		for _, r := range a.Requests() {
			if peer := r.Peer.String(); !slices.Contains(got, peer) {
				got = append(got, peer)
			}
		}
	})
	if !slices.Equal(got, want) {
		findings = append(findings, fmt.Sprintf("dialled %v, want %v", got, want))
	}
	st.notes = fmt.Sprintf("dialled in this order: %s", strings.Join(got, " "))
	return findings
}
