// Package journal is the payment machine's memory: an append-only file of
// transactions that survives a loss of power at any instant and gives a record
// up only on a receipt that is MACed with the machine's own key.
//
// Append returns once the record is on the disk. A record leaves by Release and
// by nothing else: a journal that is full refuses the next one (ErrFull) and
// never drops an old one.
//
// # On the disk
//
// A directory holds the file state, the segments EPOCH-FIRST.seg, the lock file
// and, after damage, the folder quarantine. Integers are little endian, sums are
// CRC-32C (Castagnoli).
//
// A segment is a header and frames without a space between them.
//
//	header  "FBJ1" | u32 CRC of the rest | u32 epoch | u32 first seq | 32 bytes hash of the record before | u8 length | machine id
//	frame   "FBRF" | u32 CRC of the rest of these 44 bytes | u32 CRC of the payload | u32 payload length |
//	        u32 epoch | u32 seq | i64 UTC ms | i64 amount in minor units | u8 clock generation | u8 kind | u16 zero | payload
//
// The payload is the transaction as schemas.MintTransaction minted it. The state
// file holds the current epoch and, per epoch, the highest number used and the
// release pointer; it is replaced by rename.
//
// # Damage
//
// Open repairs what it can and reports all of it (Damage). A frame that was torn
// by a loss of power was never confirmed: it is cut off and its number is used
// again. A last frame that is all there and does not match its sum may be torn or may be
// a confirmed record that rotted: its bytes are set aside and a new epoch begins, so that no
// number ever stands for two records. Damage before intact records is set aside as well; the numbers
// in it are lost, what follows is kept. A new epoch begins whenever the journal cannot be sure of its last number.
package journal
