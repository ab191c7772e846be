// Command bench measures the whole farebeat process beside a real peer, mosquitto, in the same run on the same
// machine: heartbeats taken in, retained QoS-1 messages acknowledged, and a newcomer's wildcard subscription over
// all of them. scripts/bench calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// load says how much is sent.
type load struct {
	publishers int // connections that publish at the same time
	heartbeats int // QoS 0, in all
	retained   int // QoS 1, in all, each on a topic of its own
	window     int // of them unacknowledged on one connection
}

func main() {
	var l load
	flag.IntVar(&l.publishers, "publishers", 64, "connections that publish at the same time")
	flag.IntVar(&l.heartbeats, "heartbeats", 500_000, "heartbeats in all")
	flag.IntVar(&l.retained, "retained", 100_000, "retained messages in all, each on a topic of its own")
	flag.IntVar(&l.window, "window", 16, "messages on their way on one connection")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, l); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, l load) error {
	if l.publishers < 1 || l.heartbeats < l.publishers || l.retained < l.publishers || l.window < 1 || l.window > 1000 {
		return errors.New("want at least one publisher, a message for each, and a window of 1 to 1000")
	}
	dir, err := os.MkdirTemp("", "farebeat-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "farebeat")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/farebeat")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build farebeat: %w", err)
	}
	peer, err := exec.LookPath("mosquitto")
	if err != nil {
		return errors.New("the peer is not there: install Debian's package mosquitto")
	}
	starts := []func() (target, error){
		func() (target, error) { return farebeat(ctx, binary, dir) },
		func() (target, error) { return mosquitto(ctx, peer, dir) },
	}
	for _, start := range starts {
		t, err := start()
		if err != nil {
			return err
		}
		err = measure(ctx, w, t, l)
		t.stop()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", t.name, err, t.log)
		}
	}
	return nil
}

// measure puts the whole load on one broker.
func measure(ctx context.Context, w io.Writer, t target, l load) error {
	for _, part := range []struct {
		name string
		n    int
		do   func() error
	}{
		{"heartbeats, QoS 0, taken in", l.heartbeats, func() error { return heartbeats(ctx, t, l) }},
		{"retained, QoS 1, acknowledged", l.retained, func() error { return retained(ctx, t, l) }},
		{"retained, to one newcomer", l.retained, func() error { return newcomer(w, t, l.retained) }},
	} {
		before, err := t.usage()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := part.do(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		took := time.Since(start)
		after, err := t.usage()
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%-15s %-30s %8d in %6.2f s  %8.0f/s  %5.2f s of CPU per million  %4d MB\n", t.name, part.name, part.n,
			took.Seconds(), float64(part.n)/took.Seconds(), (after.cpu-before.cpu).Seconds()*1e6/float64(part.n), after.rss>>20)
	}
	return nil
}

// each runs do for every publisher, with its share of n messages: those from first on, count of them.
func each(ctx context.Context, t target, l load, n int, do func(k *link, first, count int) error) error {
	group, _ := errgroup.WithContext(ctx)
	for p := range l.publishers {
		first, end := p*n/l.publishers, (p+1)*n/l.publishers
		group.Go(func() error {
			k, err := dial(t, fmt.Sprintf("bench-%d", p))
			if err != nil {
				return err
			}
			defer k.close()
			return do(k, first, end-first)
		})
	}
	return group.Wait()
}

// heartbeats has each publisher speak for 100 machines.
func heartbeats(ctx context.Context, t target, l load) error {
	return each(ctx, t, l, l.heartbeats, func(k *link, first, count int) error {
		for i := range count {
			machine := fmt.Sprintf("m%d-%d", first, i%100)
			payload := fmt.Appendf(nil, `{"seq":%d,"boot":"b1","at":%q,"vehicle":"v-%s","route":"r%d","state":"running","pending":0,"last_seq":0,"epoch":1,"fw":"1.0"}`,
				i/100+1, time.Now().UTC().Format(time.RFC3339), machine, i%10)
			if _, err := k.out.Write(publish("farebeat/v1/bench/machine/"+machine+"/heartbeat", payload, 0, false)); err != nil {
				return err
			}
		}
		return k.drain()
	})
}

// retained publishes what a vehicle's gateway says of itself.
func retained(ctx context.Context, t target, l load) error {
	return each(ctx, t, l, l.retained, func(k *link, first, count int) error {
		waiting := 0
		for i := range count {
			vehicle := fmt.Sprintf("v%d", first+i)
			payload := fmt.Appendf(nil, `{"as_of":"2026-11-23T06:00:00.000Z","vehicle":%q,"status":"ONLINE","session":1,"machines_seen":[{"machine":%q,"rssi_dbm":-60,"seen_at":"2026-11-23T06:00:00.000Z"}]}`, vehicle, vehicle+"-1")
			if _, err := k.out.Write(publish("farebeat/v1/bench/vehicle/"+vehicle+"/gateway", payload, uint16(i%60_000+1), true)); err != nil {
				return err
			}
			if waiting++; waiting == l.window {
				if err := k.acknowledged(); err != nil {
					return err
				}
				waiting--
			}
		}
		for ; waiting > 0; waiting-- {
			if err := k.acknowledged(); err != nil {
				return err
			}
		}
		return nil
	})
}

// newcomer subscribes to all that is retained and waits until it has all of it, or nothing comes any more.
func newcomer(w io.Writer, t target, n int) error {
	reader := t
	reader.user, reader.password = "", "" // as a viewer of the open listener
	k, err := dial(reader, "newcomer")
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.subscribe("farebeat/v1/bench/vehicle/+/gateway"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for len(seen) < n {
		_ = k.net.SetReadDeadline(time.Now().Add(10 * time.Second))
		kind, body, err := k.read()
		if err != nil {
			fmt.Fprintf(w, "%s: the newcomer got %d of %d and then: %v\n", t.name, len(seen), n, err)
			return nil
		}
		if kind != packetPublish {
			continue
		}
		size := int(body[0])<<8 | int(body[1])
		topic := string(body[2 : 2+size])
		seen[topic] = true
		if _, err := k.out.Write(packet(packetPuback<<4, body[2+size:4+size])); err != nil {
			return err
		}
		if k.in.Buffered() == 0 {
			if err := k.out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
