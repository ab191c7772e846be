package schemas

import (
	"errors"
	"fmt"
)

// EncodeBatch writes a batch with every record exactly as it is. The records are checked for
// form and sequence, not for their MAC.
func EncodeBatch(b *Batch) ([]byte, error) { return Encode(b) }

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
	c.atMost("records", len(b.Records), MaxBatch)
	if want := uint64(b.Last) - uint64(b.First) + 1; c.err == nil && uint64(len(b.Records)) != want {
		c.that(false, "records", fmt.Sprintf("%d, want %d for first %d and last %d", len(b.Records), want, b.First, b.Last))
	}
	for i, r := range b.Records {
		if c.err != nil {
			return c.err
		}
		tx, err := ParseTransaction(r)
		if err != nil {
			c.err = within(err, NameTransactions, fmt.Sprintf("records[%d]", i))
		} else if seq := b.First + uint32(i); tx.Machine != b.Machine || tx.Epoch != b.Epoch || tx.Seq != seq {
			c.that(false, fmt.Sprintf("records[%d]", i), fmt.Sprintf("is machine %q, epoch %d, seq %d; want %q, %d, %d", tx.Machine, tx.Epoch, tx.Seq, b.Machine, b.Epoch, seq))
		}
	}
	return c.err
}

// within makes a part's error that of the message that holds it.
func within(err error, message, field string) error {
	var part *Error
	if !errors.As(err, &part) {
		return &Error{Message: message, Field: field, Problem: err.Error()}
	}
	if part.Field != "" {
		field += "." + part.Field
	}
	return &Error{Message: message, Field: field, Problem: part.Problem}
}
