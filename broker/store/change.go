package store

// Change is one thing to write. The types below are all there are. Writing one twice is as
// writing it once, so that a group whose outcome is unknown can be written again.
type Change interface{ apply(*tx) error }

// Retain keeps a message as the last of its topic; an empty payload clears the topic.
type Retain Message

// Enqueue keeps a message until a session acknowledges it.
type Enqueue Queued

// Dequeue forgets what a session acknowledged.
type Dequeue struct{ Session, ID int64 }

// AddSession begins a session. The one of the same client before it is to be dropped.
type AddSession Session

// TouchSession updates a session's protocol version, expiry and time of leaving.
type TouchSession Session

// DropSession forgets a session with all that belongs to it.
type DropSession struct{ Number int64 }

// Subscribe adds or replaces a subscription.
type Subscribe Subscription

// Unsubscribe removes a subscription.
type Unsubscribe struct {
	Session int64
	Filter  string
}

// Replayed notes that the retained messages of a subscription were acknowledged.
type Replayed struct {
	Session int64
	Filter  string
}

// SaveWill keeps a will until its connection ends.
type SaveWill Will

// DropWill forgets a will that was published or called off.
type DropWill struct{ Number int64 }

func (c Retain) apply(t *tx) error {
	if len(c.Payload) == 0 {
		return t.exec(`DELETE FROM retained WHERE topic = ?`, c.Topic)
	}
	return t.exec(`INSERT INTO retained (topic, payload, qos, props) VALUES (?, ?, ?, ?)
		ON CONFLICT (topic) DO UPDATE SET payload = excluded.payload, qos = excluded.qos, props = excluded.props`,
		c.Topic, c.Payload, int64(c.QoS), c.Props)
}

func (c Enqueue) apply(t *tx) error {
	return t.exec(`INSERT OR REPLACE INTO queued (session, id, topic, payload, qos, retain, props) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.Session, c.ID, c.Topic, orEmpty(c.Payload), int64(c.QoS), c.Retain, c.Props)
}

func (c Dequeue) apply(t *tx) error {
	return t.exec(`DELETE FROM queued WHERE session = ? AND id = ?`, c.Session, c.ID)
}

func (c AddSession) apply(t *tx) error {
	return t.exec(`INSERT OR REPLACE INTO session (number, client, version, expiry_s, left_s) VALUES (?, ?, ?, ?, ?)`,
		c.Number, c.Client, int64(c.Version), int64(c.Expiry), c.Left)
}

func (c TouchSession) apply(t *tx) error {
	return t.exec(`UPDATE session SET version = ?, expiry_s = ?, left_s = ? WHERE number = ?`,
		int64(c.Version), int64(c.Expiry), c.Left, c.Number)
}

func (c DropSession) apply(t *tx) error {
	for _, statement := range []string{
		`DELETE FROM session WHERE number = ?`, `DELETE FROM subscription WHERE session = ?`, `DELETE FROM queued WHERE session = ?`,
	} {
		if err := t.exec(statement, c.Number); err != nil {
			return err
		}
	}
	return nil
}

func (c Subscribe) apply(t *tx) error {
	return t.exec(`INSERT OR REPLACE INTO subscription (session, filter, qos, retain_handling, no_local, retain_as_published, identifier, replay)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		c.Session, c.Filter, int64(c.QoS), int64(c.RetainHandling), c.NoLocal, c.RetainAsPublished, int64(c.Identifier), c.Replay)
}

func (c Unsubscribe) apply(t *tx) error {
	return t.exec(`DELETE FROM subscription WHERE session = ? AND filter = ?`, c.Session, c.Filter)
}

func (c Replayed) apply(t *tx) error {
	return t.exec(`UPDATE subscription SET replay = 0 WHERE session = ? AND filter = ?`, c.Session, c.Filter)
}

func (c SaveWill) apply(t *tx) error {
	return t.exec(`INSERT OR REPLACE INTO will (number, topic, payload, qos, retain, props) VALUES (?, ?, ?, ?, ?, ?)`,
		c.Number, c.Topic, orEmpty(c.Payload), int64(c.QoS), c.Retain, c.Props)
}

func (c DropWill) apply(t *tx) error {
	return t.exec(`DELETE FROM will WHERE number = ?`, c.Number)
}

// orEmpty keeps an empty payload from being NULL.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
