package broker_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/topics"
)

// BenchmarkRetained is how many retained QoS-1 publishes of 300 bytes are acknowledged over TCP: by a stock Mochi without any
// store, by ours without one, and by ours with one. Each publisher has one on its way at a time, or 64.
func BenchmarkRetained(b *testing.B) {
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{{Name: "fleet", Role: topics.RoleFleet, Hash: hash}})
	if err != nil {
		b.Fatal(err)
	}
	for _, publishers := range []int{1, 64, 1000} {
		for _, flying := range []int{1, 64} {
			for _, kind := range []string{"stock", "memory", "durable"} {
				b.Run(fmt.Sprintf("%s/publishers=%d/flying=%d", kind, publishers, flying), func(b *testing.B) {
					var address string
					var done func()
					if kind == "stock" {
						address, done = startStock(b)
					} else {
						o := broker.Options{Users: users, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}}}
						if kind == "durable" {
							o.Store = openStore(b, filepath.Join(b.TempDir(), "broker.db"))
						}
						o.Tree = tampa(b)
						k, err := broker.New(o)
						if err != nil {
							b.Fatal(err)
						}
						if err := k.Start(b.Context()); err != nil {
							b.Fatal(err)
						}
						address = k.Addr("tcp")
						done = func() {
							if s := k.Stats(); s.StoreCommits > 0 {
								b.ReportMetric(float64(s.StoreChanges)/float64(s.StoreCommits), "group")
							}
							closeBroker(b, k)
							if o.Store != nil {
								o.Store.Close()
							}
						}
					}
					acknowledge(b, address, secret, publishers, flying)
					done()
				})
			}
		}
	}
}

func startStock(b *testing.B) (string, func()) {
	b.Helper()
	s := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(&counting{}, nil); err != nil {
		b.Fatal(err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := s.AddListener(l); err != nil {
		b.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		b.Fatal(err)
	}
	return l.Address(), func() { s.Close() }
}

// acknowledge publishes b.N messages and waits for every acknowledgement.
func acknowledge(b *testing.B, address, secret string, publishers, flying int) {
	b.Helper()
	clients := make([]*raw, publishers)
	for i := range clients {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		r, code := join(b, c, connect{id: fmt.Sprint("p", i), user: "fleet", password: secret})
		if code != 0 {
			b.Fatalf("refused with %d", code)
		}
		clients[i] = r
	}
	var next atomic.Int64
	payload := bytes.Repeat([]byte("x"), 292)[:292:292]
	var wg sync.WaitGroup
	b.ResetTimer()
	for i, r := range clients {
		wg.Go(func() {
			window := make(chan struct{}, flying)
			go func() {
				for {
					var ack [4]byte
					if _, err := io.ReadFull(r.in, ack[:]); err != nil {
						return // the end
					}
					<-window
				}
			}()
			var out bytes.Buffer
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				pk := packets.Packet{
					FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: true}, ProtocolVersion: 4,
					PacketID: uint16(n%65_535) + 1, TopicName: fmt.Sprintf("%smachine/m%d-%d/state", root, i, n%100),
					Payload: binary.BigEndian.AppendUint64(payload, uint64(n)), // never the same: SQLite does not write what does not change
				}
				out.Reset()
				if err := pk.PublishEncode(&out); err != nil {
					b.Error(err)
				}
				window <- struct{}{}
				if _, err := r.net.Write(out.Bytes()); err != nil {
					b.Error(err)
					break
				}
			}
			for range flying { // room for as many: all are acknowledged
				window <- struct{}{}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acked/s")
}

// BenchmarkStart is the start of a broker with retained messages of 300 bytes in its store, until it could listen.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			file := filepath.Join(b.TempDir(), "broker.db")
			s := openStore(b, file)
			for i := 0; i < n; i += 5_000 {
				group := make([]store.Change, 5_000)
				for k := range group {
					group[k] = store.Retain{Topic: fmt.Sprintf("%smachine/m%07d/state", root, i+k), Payload: make([]byte, 300), QoS: 1}
				}
				if err := s.Commit(group); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			before := heap()
			for b.Loop() {
				s := openStore(b, file)
				k, err := broker.New(broker.Options{Tree: tampa(b), Store: s})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if got := k.Stats().Retained; got != int64(n) {
					b.Fatalf("%d retained messages", got)
				}
				b.ReportMetric(float64(heap()-before)/float64(n), "B/message")
				closeBroker(b, k)
				s.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkConnectByCertificate is a TLS 1.3 handshake with a certificate on both sides, CONNECT and CONNACK: client and broker share the processor.
func BenchmarkConnectByCertificate(b *testing.B) {
	ours := newAuthority(b)
	br := start(b, broker.Options{Listeners: []broker.Listener{{Name: "tls", Kind: "tls", Address: "127.0.0.1:0", TLS: ours.server(tls.RequireAndVerifyClientCert)}}})
	config := ours.client(ours.of(tampa(b), topics.RoleMachine, "m1"))
	for b.Loop() {
		c, err := tls.Dial("tcp", br.Addr("tls"), config)
		if err != nil {
			b.Fatal(err)
		}
		if _, code := join(b, c, connect{id: "m1"}); code != 0 {
			b.Fatalf("refused: %d", code)
		}
		c.Close()
	}
}
