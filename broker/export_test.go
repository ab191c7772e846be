package broker

import "github.com/farebeat/farebeat/broker/store"

// Journal is what a test may put between the broker and its store.
type Journal = journal

// SetJournal replaces where changes go. Call it before Start.
func (b *Broker) SetJournal(wrap func(Journal) Journal) {
	b.hook.commits.journal = wrap(b.hook.commits.journal)
}

// StoredAndBack is a message to the disk and back.
func StoredAndBack(props []byte) (again []byte, subs []int, err error) {
	m, subs, err := restored(store.Message{Topic: "t", Payload: []byte("p"), QoS: 1, Props: props}, true)
	if err != nil {
		return nil, nil, err
	}
	return m.stored(subs).Props, subs, nil
}
