// Command stockhooks kills brokers with kill -9 while publishers write retained QoS-1 messages, and counts how many
// acknowledged ones are gone after the restart: Farebeat's broker beside Mochi with each of its own storage hooks.
//
//	go run .                 # from this folder: it is a module of its own, so that Farebeat does not depend on these stores
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/badger"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"
	"github.com/mochi-mqtt/server/v2/hooks/storage/pebble"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/topics"
)

const (
	root   = "farebeat/v1/tampa/"
	user   = "fleet"
	secret = "a secret of this measurement only"
)

func main() {
	serve := flag.String("serve", "", "run as the broker of this kind until killed")
	folder := flag.String("folder", "", "of the broker's files")
	publishers := flag.Int("publishers", 64, "connections, each with one publish on its way at a time")
	flying := flag.Int("flying", 1, "publishes of one connection on their way at a time")
	rounds := flag.Int("rounds", 3, "kills of each broker")
	lasts := flag.Duration("for", 1200*time.Millisecond, "publishing before each kill")
	flag.Parse()
	var err error
	if *serve != "" {
		err = run(*serve, *folder)
	} else {
		err = compare(*publishers, *flying, *rounds, *lasts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stockhooks:", err)
		os.Exit(1)
	}
}

// run is a broker until its standard input ends.
func run(kind, folder string) error {
	address, err := start(kind, folder)
	if err != nil {
		return err
	}
	fmt.Println(address)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func start(kind, folder string) (string, error) {
	if kind == "farebeat" {
		return startFarebeat(folder)
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0
	s := mqtt.New(&mqtt.Options{Capabilities: caps, Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		return "", err
	}
	var err error
	switch kind { // as their examples have them
	case "bolt":
		err = s.AddHook(new(bolt.Hook), &bolt.Options{Path: filepath.Join(folder, "bolt.db")})
	case "badger":
		err = s.AddHook(new(badger.Hook), &badger.Options{Path: filepath.Join(folder, "badger")})
	case "pebble":
		err = s.AddHook(new(pebble.Hook), &pebble.Options{Path: filepath.Join(folder, "pebble"), Mode: pebble.NoSync})
	case "pebble-sync":
		err = s.AddHook(new(pebble.Hook), &pebble.Options{Path: filepath.Join(folder, "pebble"), Mode: pebble.Sync})
	default:
		err = fmt.Errorf("broker %q: want one of %v", kind, kinds())
	}
	if err != nil {
		return "", err
	}
	l := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := s.AddListener(l); err != nil {
		return "", err
	}
	return l.Address(), s.Serve()
}

func kinds() []string { return []string{"farebeat", "bolt", "badger", "pebble", "pebble-sync"} }

func startFarebeat(folder string) (string, error) {
	hash, err := broker.HashPassword(secret)
	if err != nil {
		return "", err
	}
	users, err := broker.NewUsers([]broker.User{{Name: user, Role: topics.RoleFleet, Hash: hash}})
	if err != nil {
		return "", err
	}
	tree, err := topics.New("tampa")
	if err != nil {
		return "", err
	}
	s, err := store.Open(context.Background(), filepath.Join(folder, "broker.db"), store.Options{})
	if err != nil {
		return "", err
	}
	b, err := broker.New(broker.Options{
		Tree: tree, Users: users, Store: s, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}},
	})
	if err != nil {
		return "", err
	}
	return b.Addr("tcp"), b.Start(context.Background())
}

func compare(publishers, flying, rounds int, lasts time.Duration) error {
	fmt.Printf("%d publishers, %d publishes of each on their way, retained QoS 1, 300 bytes; kill -9 after %s, %d times\n", publishers, flying, lasts, rounds)
	for _, kind := range kinds() {
		acked, lost := 0, 0
		for range rounds {
			a, l, err := killOne(kind, publishers, flying, lasts)
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			acked, lost = acked+a, lost+l
		}
		fmt.Printf("%-12s %8d acknowledged, %6.0f/s, lost %d\n", kind, acked, float64(acked)/(lasts.Seconds()*float64(rounds)), lost)
	}
	return nil
}

// killOne publishes each message to a topic of its own, so that each can be looked for afterwards.
func killOne(kind string, publishers, flying int, lasts time.Duration) (acked, lost int, err error) {
	folder, err := os.MkdirTemp("", "stockhooks")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	v, err := spawn(kind, folder)
	if err != nil {
		return 0, 0, err
	}
	counts := make([]int, publishers)
	var wg sync.WaitGroup
	for i := range publishers {
		c, err := dial(v.address, fmt.Sprint("p", i))
		if err != nil {
			return 0, 0, errors.Join(err, v.kill())
		}
		wg.Go(func() { counts[i] = c.publishUntilCut(i, flying) })
	}
	time.Sleep(lasts)
	if err := v.kill(); err != nil {
		return 0, 0, err
	}
	wg.Wait()
	if v, err = spawn(kind, folder); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, v.kill()) }()
	for i, n := range counts {
		acked += n
		for from := 0; from < n; from += some {
			found, err := count(v.address, i, from, min(from+some, n))
			if err != nil {
				return 0, 0, err
			}
			lost += min(from+some, n) - from - found
		}
	}
	return acked, lost, nil
}

// victim is a broker in a process of its own.
type victim struct {
	cmd     *exec.Cmd
	address string
}

func spawn(kind, folder string) (*victim, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	v := &victim{cmd: exec.Command(exe, "-serve", kind, "-folder", folder)}
	v.cmd.Stderr = os.Stderr
	if _, err := v.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the broker did not start: %w", err)
	}
	v.address = strings.TrimSpace(line)
	return v, nil
}

// kill ends the process as kill -9 does.
func (v *victim) kill() error {
	if err := v.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = v.cmd.Wait() // says that it was killed
	return nil
}

func dial(address, id string) (*client, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	m := &client{net: c, in: bufio.NewReader(c)}
	return m, m.connect(id)
}
