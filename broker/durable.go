package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/topics"
)

// isInside reports whether a client id is that of the fleet in this process. It starts and ends with the broker and
// subscribes anew, so of what waits for it only messages that are not retained are kept on disk.
func isInside(id string) bool {
	return strings.HasPrefix(id, "in-process/"+string(topics.RoleFleet)+"/")
}

// keeps reports whether a message must outlive the broker for this session.
func (s *session) keeps(m *message) bool { return s.number != 0 && !(s.inside && m.retain) }

// keptFor is for how many seconds the session outlives the connection.
func (c *conn) keptFor() uint32 {
	p := &c.client.Properties
	switch {
	case p.ProtocolVersion == 5:
		return min(p.Props.SessionExpiryInterval, sessionDays*86400)
	case p.Clean:
		return 0
	}
	return sessionDays * 86400
}

// keepSession notes that a client has a new session, in the place of an old one if that is not nil.
func (h *hook) keepSession(old, s *session, c *conn) {
	if h.commits == nil {
		return
	}
	if old != nil && old.number != 0 {
		h.commits.put(work{change: store.DropSession{Number: old.number}})
	}
	if expiry := c.keptFor(); expiry > 0 {
		s.number = h.commits.number()
		h.commits.put(work{change: store.AddSession{Number: s.number, Client: s.id, Version: c.client.Properties.ProtocolVersion, Expiry: expiry}})
	}
}

// touch notes that the client of a session came (left is 0) or left.
func (h *hook) touch(s *session, c *conn, left int64) {
	if s.number != 0 {
		h.commits.touch(store.TouchSession{Number: s.number, Version: c.client.Properties.ProtocolVersion, Expiry: c.keptFor(), Left: left})
	}
}

// keepWill keeps a will on disk until the connection ends: a crash of the broker ends it, too.
func (h *hook) keepWill(c *conn) {
	will := &c.client.Properties.Will
	if will.Flag == 0 || will.Qos == 0 && !will.Retain {
		return
	}
	c.will = h.commits.number()
	h.commits.put(work{change: store.SaveWill{Number: c.will, Retain: will.Retain, Message: store.Message{
		Topic: will.TopicName, Payload: will.Payload, QoS: will.Qos,
	}}})
}

// settle brings changes of a session's subscriptions to the disk and waits for them, and for those before. The fleet in this
// process does not wait: it subscribes anew after a restart, and must hear while the disk fails.
func (h *hook) settle(c *conn, list []work) {
	if h.commits == nil || c.session.inside {
		if len(list) > 0 {
			h.commits.put(list...)
		}
		return
	}
	s := c.session
	if len(list) > 0 {
		done := make(chan struct{})
		list[len(list)-1].done = done
		s.settled = done
		h.commits.put(list...)
	}
	if s.settled == nil {
		return
	}
	select {
	case <-s.settled:
	case <-c.gone:
	case <-h.commits.closing:
		c.closeFor("the broker closes") // lest it be told of what may not be on disk
	}
}

func sameSubscription(a, b packets.Subscription) bool {
	return a.Qos == b.Qos && a.NoLocal == b.NoLocal && a.RetainAsPublished == b.RetainAsPublished && a.RetainHandling == b.RetainHandling &&
		a.Identifier == b.Identifier
}

// restore takes up what the store held: retained messages, sessions, and the wills of connections that the last broker did
// not see end, which are published now.
func (b *Broker) restore(c store.Contents, now time.Time) {
	if d := b.o.Store.Damage(); d != nil {
		b.o.Logger.Error("the broker's store was damaged and set aside; what could be read of it is in use, and the owners of the rest publish it again. "+
			"Check the disk, then delete the file", "file", d.Aside, "taken_over", d.Copied, "error", d.Cause)
	}
	b.hook.commits = newCommits(b.hook, b.o.Store)
	next := int64(0)
	skipped := 0
	for _, s := range c.Retained {
		m, _, err := b.message(s, true)
		if err != nil {
			skipped++
			continue
		}
		b.hook.retained.put(m, func() {})
	}
	sessions := map[int64]*session{}
	for _, s := range c.Sessions {
		next = max(next, s.Number)
		if kept := b.restoreSession(s, now); kept != nil {
			sessions[s.Number] = kept
		}
	}
	for _, s := range c.Subscriptions {
		if kept := sessions[s.Session]; kept != nil {
			b.restoreSubscription(kept, s)
		}
	}
	slices.SortStableFunc(c.Queued, func(a, b store.Queued) int { return cmp.Compare(a.ID, b.ID) })
	for _, q := range c.Queued {
		next = max(next, q.ID)
		m, subs, err := b.message(q.Message, q.Retain)
		if err != nil {
			skipped++
			continue
		}
		if s := sessions[q.Session]; s != nil {
			s.queue = append(s.queue, queued{m: m, qos: 1, retain: q.Retain, subs: subs, row: q.ID, dup: true})
			s.bytes += len(m.payload)
		}
	}
	for _, w := range c.Wills {
		next = max(next, w.Number)
		m, _, err := b.message(w.Message, w.Retain)
		if err == nil {
			b.hook.commits.put(work{change: m.change(), m: m})
		} else {
			skipped++
		}
		b.hook.commits.put(work{change: store.DropWill{Number: w.Number}})
	}
	b.hook.commits.next = next
	if skipped > 0 {
		b.o.Logger.Warn("messages in the broker's store are not of this topic tree and stay there unused; was the operator renamed?", "messages", skipped)
	}
}

// message is a message of the store that the topic tree knows.
func (b *Broker) message(s store.Message, retain bool) (*message, []int, error) {
	if _, err := b.o.Tree.Parse(s.Topic); err != nil {
		return nil, nil, err
	}
	return restored(s, retain)
}

// restoreSession makes a session known to Mochi and to us; nil if it has expired, which is noted.
func (b *Broker) restoreSession(s store.Session, now time.Time) *session {
	h := b.hook
	left := s.Left
	if left == 0 {
		left = now.Unix() // the broker ended with the connection up
	}
	remaining := left + int64(s.Expiry) - now.Unix()
	if remaining <= 0 {
		h.commits.put(work{change: store.DropSession{Number: s.Number}})
		return nil
	}
	if old := h.session(s.Client); old != nil { // a salvaged file may hold both
		h.commits.put(work{change: store.DropSession{Number: old.number}})
	}
	h.commits.touch(store.TouchSession{Number: s.Number, Version: s.Version, Expiry: s.Expiry, Left: left})
	kept := &session{h: h, id: s.Client, number: s.Number, unacked: map[uint16]queued{}, inside: isInside(s.Client)}
	h.sessions.Store(s.Client, kept)
	h.limits.addSession(kept, identityOf(s.Client))
	kept.left = left
	cl := b.server.NewClient(nil, "", s.Client, false)
	cl.Properties.ProtocolVersion = s.Version
	cl.Properties.Props.SessionExpiryInterval, cl.Properties.Props.SessionExpiryIntervalFlag = uint32(remaining), true
	cl.Stop(packets.ErrServerShuttingDown)
	b.server.Clients.Add(cl)
	return kept
}

func (b *Broker) restoreSubscription(kept *session, s store.Subscription) {
	cl, ok := b.server.Clients.Get(kept.id)
	if !ok {
		return
	}
	sub := packets.Subscription{
		Filter: s.Filter, Qos: s.QoS, RetainHandling: s.RetainHandling, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, Identifier: s.Identifier,
	}
	b.server.Topics.Subscribe(kept.id, sub)
	cl.State.Subscriptions.Add(s.Filter, sub)
	if s.Replay {
		kept.replay(newReplay(s.Filter, s.QoS, s.Identifier))
	}
}

// StoreFailure is nil while what is published reaches the disk, or if there is no store; else what keeps it from there, and
// since when. One attempt that fails alone is not told.
func (b *Broker) StoreFailure() error {
	if b.hook.commits == nil {
		return nil
	}
	f := b.hook.commits.failing.Load()
	if f == nil || f.attempts < 2 {
		return nil
	}
	return fmt.Errorf("since %s: %w", f.since.UTC().Format(time.RFC3339), f.err)
}
