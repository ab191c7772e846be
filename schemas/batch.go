package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// EncodeBatch writes a batch with every record exactly as it is. The records are checked for
// form and sequence, not for their MAC.
func EncodeBatch(b *Batch) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	head := *b
	head.Records = nil
	out, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	out = bytes.TrimSuffix(out, []byte("null}")) // json.Marshal would escape the records anew
	out = append(out, '[')
	for i, r := range b.Records {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, r...)
	}
	return append(out, "]}"...), nil
}

// DecodeBatch reads a batch; its records are exactly the bytes on the wire.
func DecodeBatch(payload []byte) (*Batch, error) {
	var b Batch
	if err := Decode(payload, NameTransactions, &b); err != nil {
		return nil, err
	}
	return &b, nil
}

// Validate implements Message: the records are First to Last without a hole, of one machine and epoch.
func (b *Batch) Validate() error {
	c := checker{message: NameTransactions}
	c.id("machine", b.Machine)
	c.id("vehicle", b.Vehicle)
	c.that(b.Epoch > 0, "epoch", "is 0")
	c.that(b.First > 0, "first", "is 0")
	c.that(b.Last >= b.First, "last", "is before first")
	c.time("as_of", b.AsOf)
	c.that(len(b.Records) <= MaxBatch, "records", fmt.Sprintf("%d, at most %d", len(b.Records), MaxBatch))
	if c.err != nil {
		return c.err
	}
	c.that(uint64(len(b.Records)) == uint64(b.Last)-uint64(b.First)+1, "records", fmt.Sprintf("%d, want %d for first %d and last %d", len(b.Records), uint64(b.Last)-uint64(b.First)+1, b.First, b.Last))
	for i, r := range b.Records {
		if c.err != nil {
			break
		}
		tx, err := ParseTransaction(r)
		field := fmt.Sprintf("records[%d]", i)
		if err != nil {
			c.that(false, field, err.Error())
			break
		}
		c.that(tx.Machine == b.Machine && tx.Epoch == b.Epoch && tx.Seq == b.First+uint32(i), field,
			fmt.Sprintf("is machine %q, epoch %d, seq %d; want %q, %d, %d", tx.Machine, tx.Epoch, tx.Seq, b.Machine, b.Epoch, b.First+uint32(i)))
	}
	return c.err
}
