package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/topics"
)

// Environment of the test binary when it is run as a broker that will be killed.
const (
	envStore = "FAREBEAT_TEST_BROKER_STORE"
	envHash  = "FAREBEAT_TEST_BROKER_HASH"
)

// serveUntilKilled is the child of TestKill: a broker with a store on a port of its own, which it prints.
func serveUntilKilled() error {
	users, err := broker.NewUsers([]broker.User{
		{Name: "fleet", Role: topics.RoleFleet, Hash: os.Getenv(envHash)},
		{Name: "v1", Role: topics.RoleGateway, ID: "v1", Hash: os.Getenv(envHash)},
	})
	if err != nil {
		return err
	}
	tree, err := topics.New("tampa")
	if err != nil {
		return err
	}
	s, err := store.Open(context.Background(), os.Getenv(envStore), store.Options{})
	if err != nil {
		return err
	}
	b, err := broker.New(broker.Options{
		Tree: tree, Users: users, Store: s, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}},
	})
	if err != nil {
		return err
	}
	if err := b.Start(context.Background()); err != nil {
		return err
	}
	fmt.Println(b.Addr("tcp"))
	_, err = io.Copy(io.Discard, os.Stdin) // until the parent dies, should it fail to kill
	return err
}

// victim is a broker in a process of its own.
type victim struct {
	cmd  *exec.Cmd
	addr string
}

func startVictim(t *testing.T, file, hash string) *victim {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{cmd: exec.CommandContext(t.Context(), exe)}
	v.cmd.Env = append(os.Environ(), envStore+"="+file, envHash+"="+hash)
	v.cmd.Stderr = os.Stderr
	if _, err := v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the broker did not start: %v", err)
	}
	v.addr = strings.TrimSpace(line)
	return v
}

// kill ends the process as kill -9 does.
func (v *victim) kill(t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = v.cmd.Wait() // says that it was killed
}

func (v *victim) join(t *testing.T, o connect) (*raw, bool) {
	t.Helper()
	c, err := net.Dial("tcp", v.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r, present, code := connectRaw(t, c, o)
	if code != 0 {
		t.Fatalf("client %q: refused with %d", o.id, code)
	}
	return r, present
}

// writer publishes values that count up to topics of its own, with many on their way at once, and notes what was
// acknowledged.
type writer struct {
	topics      []string
	retain      bool
	sent, acked []int // per topic: the latest value
	all         []int // values acknowledged, of the first topic
}

func (w *writer) run(r *raw, total *atomic.Int64, enough int64, kill func()) {
	window := make(chan struct{}, 32)
	var order sync.Map // packet identifier to [2]int{topic, value}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		next := uint16(1)
		for {
			pk, err := r.read()
			if err != nil {
				return
			}
			if pk.FixedHeader.Type != packets.Puback {
				continue
			}
			if pk.PacketID != next { // MQTT 3.1.1, section 4.6
				r.t.Errorf("acknowledged %d, want %d", pk.PacketID, next)
				return
			}
			next++
			v, _ := order.LoadAndDelete(pk.PacketID)
			topic, value := v.([2]int)[0], v.([2]int)[1]
			if w.acked[topic] = value; topic == 0 {
				w.all = append(w.all, value)
			}
			<-window
			if total.Add(1) == enough {
				kill()
			}
		}
	}()
	for i := 0; ; i++ {
		k := i % len(w.topics)
		w.sent[k]++
		order.Store(r.lastID+1, [2]int{k, w.sent[k]})
		select {
		case window <- struct{}{}:
		case <-gone:
			return
		}
		if r.publish(pub{w.topics[k], strconv.Itoa(w.sent[k]), 1, w.retain}) != nil {
			break
		}
	}
	<-gone
}

// What was acknowledged before kill -9 is there after the restart: every retained message, not older than acknowledged; and
// every message for a client that is away, whose session is present, in order.
func TestKill(t *testing.T) {
	rounds := 12
	if testing.Short() || underRace {
		rounds = 3
	}
	file := filepath.Join(t.TempDir(), "broker.db")
	secret, hash := broker.NewSecret()
	rng := rand.New(rand.NewPCG(1, 2))
	fleet := func(id string) connect { return connect{id: id, user: "fleet", password: secret} }
	gateway := connect{id: "g", user: "v1", password: secret, keep: true}

	writers := make([]*writer, 8)
	for i := range writers {
		w := &writer{retain: true, sent: make([]int, 40), acked: make([]int, 40)}
		for k := range 40 {
			w.topics = append(w.topics, fmt.Sprintf("%smachine/m%d-%d/state", root, i, k))
		}
		writers[i] = w
	}
	commands := &writer{topics: []string{root + "command/v1/c"}, sent: make([]int, 1), acked: make([]int, 1)}

	v := startVictim(t, file, hash)
	g, _ := v.join(t, gateway)
	g.subscribe(1, root+"command/v1/+")
	g.bye()
	acked, last, seen := int64(0), 0, map[int]bool{}
	for round := range rounds {
		var total atomic.Int64
		enough := int64(500 + rng.IntN(2500))
		var once sync.Once
		kill := func() { once.Do(func() { v.kill(t) }) }
		var wg sync.WaitGroup
		all := append(writers[:len(writers):len(writers)], commands)
		clients := make([]*raw, len(all)) // all are in before the first may bring about the kill
		for i := range all {
			clients[i], _ = v.join(t, fleet(fmt.Sprint("w", i)))
		}
		for i, w := range all {
			wg.Go(func() { w.run(clients[i], &total, enough, kill) })
		}
		wg.Wait()
		kill()
		acked += total.Load()

		v = startVictim(t, file, hash)
		checkRetained(t, v, fleet("reader"), writers)
		g, present := v.join(t, gateway)
		if !present {
			t.Fatalf("round %d: the session of the client that was away is gone", round)
		}
		for commands.acked[0] > 0 && !seen[commands.acked[0]] {
			n, _ := strconv.Atoi(string(g.next().Payload))
			if n < last && !seen[n] {
				t.Fatalf("round %d: command %d follows %d", round, n, last)
			}
			last, seen[n] = max(last, n), true
		}
		g.bye()
		for _, n := range commands.all {
			if !seen[n] {
				t.Fatalf("round %d: command %d was acknowledged and is lost", round, n)
			}
		}
	}
	v.kill(t)
	t.Logf("%d publishes acknowledged over %d kills, %d of them for a client that was away: none lost", acked, rounds, len(commands.all))
}

func checkRetained(t *testing.T, v *victim, who connect, writers []*writer) {
	t.Helper()
	r, _ := v.join(t, who)
	_, got := r.subscribe(0, root+"machine/+/state")
	want := 0
	for _, w := range writers {
		for k := range w.topics {
			if w.acked[k] > 0 {
				want++
			}
		}
	}
	values := map[string]int{}
	for len(got) > 0 || len(values) < want {
		if len(got) == 0 {
			pk, err := r.read()
			if err != nil {
				t.Fatalf("%d retained messages of at least %d: %v", len(values), want, err)
			}
			got = append(got, pk)
		}
		values[got[0].TopicName], _ = strconv.Atoi(string(got[0].Payload))
		got = got[1:]
	}
	for _, pk := range r.ping() {
		values[pk.TopicName], _ = strconv.Atoi(string(pk.Payload))
	}
	for _, w := range writers {
		for k, topic := range w.topics {
			if got := values[topic]; got < w.acked[k] || got > w.sent[k] {
				t.Errorf("%s is %d, acknowledged was %d, sent %d", topic, got, w.acked[k], w.sent[k])
			}
		}
	}
}
