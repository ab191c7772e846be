package view

import (
	"context"
	"sync"
	"time"
)

// Broker is what the broker of this process did and does.
type Broker struct {
	State     State       `json:"state"`
	Clients   int         `json:"clients"`
	Retained  int         `json:"retained"`
	Published Rate        `json:"published"`
	Beats     Rate        `json:"heartbeats"`
	Counters  []Counter   `json:"counters"`
	Store     BrokerStore `json:"store"`
	Listeners []Listener  `json:"listeners"`
	List      []Client    `json:"client_list"` // a page of them
	All       int         `json:"all"`
	Page      int         `json:"page"`
	Pages     int         `json:"pages"`
	Find      string      `json:"-"`
}

// Rate is a count since the start, and how fast it grows.
type Rate struct {
	Total     uint64  `json:"total"`
	PerSecond float64 `json:"per_s"` // over the last seconds, on the wall
}

// Counter counts what is 0 on a healthy system.
type Counter struct {
	Name    string `json:"name"`
	Total   uint64 `json:"total"`
	Meaning string `json:"meaning"`
}

// BrokerStore is what keeps the broker's retained messages and sessions.
type BrokerStore struct {
	Kept     bool   `json:"kept"`    // false: in memory only
	Commits  uint64 `json:"commits"` // transactions, each with one fsync
	Waiting  int    `json:"waiting"` // bytes that wait for the disk
	Failures uint64 `json:"failures"`
	Failing  bool   `json:"failing"` // nothing is acknowledged or delivered
	Damaged  uint64 `json:"damaged"` // files found damaged at the start and set aside
}

// Listener is one address of the broker, and the certificate that it shows.
type Listener struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Address  string    `json:"address"`
	ReadOnly bool      `json:"read_only"`
	Open     bool      `json:"anonymous_readers"`
	Subject  string    `json:"certificate,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
}

// Client is one client that is connected now.
type Client struct {
	ID            string    `json:"id"`
	Role          string    `json:"role"`
	Name          string    `json:"name"`
	Listener      string    `json:"listener"`
	Remote        string    `json:"remote,omitempty"`
	ReadOnly      bool      `json:"read_only"`
	Protocol      byte      `json:"protocol"` // 4 for MQTT 3.1.1, 5
	Since         time.Time `json:"since"`    // on the wall
	Subscriptions int       `json:"subscriptions"`
	In            uint64    `json:"in"`
	Out           uint64    `json:"out"`
	Waiting       int       `json:"waiting"` // messages that it has not read yet
	Dropped       uint64    `json:"dropped"` // that it was not given
}

// BrokerSource tells of the broker of this process: all but State, rates and pages, and all clients.
type BrokerSource func() Broker

// meter makes rates of counts that are looked at now and then.
type meter struct {
	mu        sync.Mutex
	at        time.Time
	published uint64
	beats     uint64
	rates     [2]float64
}

// meterEvery is the least time that a rate is made of.
const meterEvery = 2 * time.Second

func (m *meter) look(now time.Time, b *Broker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if gap := now.Sub(m.at); m.at.IsZero() || gap >= meterEvery {
		if !m.at.IsZero() && b.Published.Total >= m.published {
			m.rates = [2]float64{float64(b.Published.Total-m.published) / gap.Seconds(), float64(b.Beats.Total-m.beats) / gap.Seconds()}
		}
		m.at, m.published, m.beats = now, b.Published.Total, b.Beats.Total
	}
	b.Published.PerSecond, b.Beats.PerSecond = m.rates[0], m.rates[1]
}

// BrokerQuery selects a page of clients.
type BrokerQuery struct {
	Find  string // only those whose id, role, name, listener or address contains this, case ignored
	Page  int
	Limit int
}

// Broker tells how the broker is.
func (r *Reader) Broker(_ context.Context, q BrokerQuery) (Broker, error) {
	limit, err := pageSize(q.Limit)
	if err != nil {
		return Broker{State: r.State()}, err
	}
	if r.o.Broker == nil {
		return Broker{State: r.State()}, ErrStarting
	}
	b := r.o.Broker()
	b.State, b.Find = r.State(), q.Find
	r.meter.look(r.o.Wall(), &b)
	b.List = only(b.List, q.Find, func(c Client) string {
		return c.ID + "\x00" + c.Role + "\x00" + c.Name + "\x00" + c.Listener + "\x00" + c.Remote
	})
	b.List, b.All, b.Page, b.Pages = pageOf(b.List, q.Page, limit)
	return b, nil
}
