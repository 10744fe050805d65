/*
 * Keyspaces of mode `tunable`: QUORUM writes, QUORUM reads that settle, and a replica that loses what it stored and is
 * taken back. One key, three replicas, so a majority is any two.
 *
 * Requests travel on their own: each reaches its replica at any later moment or never, also after its operation ended.
 * A replica that is down, slow or cut off is one that requests do not reach. An answer counts the moment its replica
 * gave it; what a coordinator decides from its answers is a step of its own, at any later moment.
 *
 * Rules that can be taken away, each by a macro: see README.md beside this file.
 */

#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef READERS
#define READERS 2
#endif
#ifndef READS           /* by each reader, one after the other */
#define READS 1
#endif
#ifndef POWER_CUTS      /* one after the other; each takes all that one replica stored */
#define POWER_CUTS 1
#endif

#define REPLICAS 3
#define EPOCHS (2 + 2 * POWER_CUTS)
#define BIT(r) (1 << (r))
#define MAJORITY(s) ((s) == 3 || (s) == 5 || (s) == 6 || (s) == 7)

/* The replicas. A record is its version alone; a fence of 0 is none. */
byte version[REPLICAS];
byte life[REPLICAS];
byte fence[REPLICAS];

/* The maps that were published: for every epoch and replica the life whose answers count, 0 for none (SUSPECT). */
byte epoch;
byte counted[EPOCHS * REPLICAS];

/* What clients were told so far. */
byte acknowledged;      /* the highest version whose write was answered OK */
byte returned;          /* the highest version that a read has answered */

byte readers_started;
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
byte answers;
#endif

#define HOLDS(r, e) (fence[r] != 0 && e >= fence[r])

#ifdef NO_INCARNATION_CHECK
#define COUNTS(r, e) true
#else
#define COUNTS(r, e) (counted[(e) * REPLICAS + (r)] == life[r])
#endif

/* A coordinator may work by an old map, but never goes back to an older one. */
inline take_a_map(known) {
    do
    :: known < epoch -> known++
    :: break
    od
}

inline write_at(r, known, what, set) {
    if
    :: HOLDS(r, known) ->
        if
        :: version[r] < what -> version[r] = what
        :: else
        fi;
        if
        :: COUNTS(r, known) -> set = set | BIT(r)
        :: else
        fi
    :: else -> refused = true
    fi
}

#define WRITE_ARRIVES(r) \
    :: atomic { (sent & BIT(r)) -> \
           sent = sent ^ BIT(r); \
           write_at(r, e, mine, acks); \
           if \
           :: done -> acks = 0; refused = false \
           :: else \
           fi; \
           printf("writer of v%d, epoch %d: replica %d, life %d: version now %d; acknowledged by set %d\n", \
                  mine, e, r, life[r], version[r], acks) \
       }

proctype Writer(byte mine) {
    byte e, sent, acks;
    bool refused, done;

    atomic { e = 1; take_a_map(e); sent = 7; printf("writer of v%d starts at epoch %d\n", mine, e) }
end:
    do
    WRITE_ARRIVES(0)
    WRITE_ARRIVES(1)
    WRITE_ARRIVES(2)
    :: atomic { !done && MAJORITY(acks) ->
           done = true;
           acks = 0;
           refused = false;
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
           answers++;
#endif
           if
           :: acknowledged < mine -> acknowledged = mine
           :: else
           fi;
           printf("writer of v%d: OK\n", mine)
       }
    /* Refused for its epoch: it takes a newer map and starts again, with an empty tally. */
    :: atomic { refused && !done && e < epoch ->
           e++;
           take_a_map(e);
           sent = 7;
#ifndef TALLY_ACROSS_EPOCHS
           acks = 0;
#endif
           refused = false;
           printf("writer of v%d starts again at epoch %d\n", mine, e)
       }
    :: atomic { done && sent == 0 -> break }
    od
}

#define READ_ARRIVES(r) \
    :: atomic { !(read & BIT(r)) && HOLDS(r, e) && COUNTS(r, e) -> \
           read = read | BIT(r); \
           if \
           :: version[r] > best -> best = version[r]; have = BIT(r) \
           :: version[r] == best -> have = have | BIT(r) \
           :: else \
           fi; \
           printf("reader %d, epoch %d: replica %d, life %d: version %d\n", me, e, r, life[r], version[r]) \
       }

/* Writing the version that will be the answer back to a replica, read or not, that is not known to have it. */
#ifdef WRITE_BACK_TO_THOSE_READ
#define MAY_REPAIR(r) (!(have & BIT(r)) && (read & BIT(r)))
#else
#define MAY_REPAIR(r) (!(have & BIT(r)))
#endif

#define REPAIR_ARRIVES(r) \
    :: atomic { MAY_REPAIR(r) -> \
           write_at(r, e, best, have); \
           refused = false; \
           printf("reader %d, epoch %d: repairs replica %d, life %d: version now %d\n", me, e, r, life[r], version[r]) \
       }

proctype Reader(byte me) {
    byte e = 1, read, best, have, told, seen, n;
    bool refused;   /* looked at by nobody: a refused repair is one that did not succeed */

end:
    do
    :: n == READS -> break
    :: else ->
end_waiting:
        atomic {
            readers_started >= me - 1;      /* they are alike: who is the first makes no difference */
            take_a_map(e);
            if
            :: readers_started < me -> readers_started = me
            :: else
            fi;
            told = acknowledged;
            seen = returned;
            printf("reader %d starts at epoch %d\n", me, e)
        }
end_gathering:
        do
        READ_ARRIVES(0)
        READ_ARRIVES(1)
        READ_ARRIVES(2)
        :: atomic { MAJORITY(read) ->
#ifndef WRITE_BACK_TO_THOSE_READ
               read = 0;
#endif
               break
           }
        od;
#ifndef NO_WRITE_BACK
end_settling:
        do
        :: atomic { MAJORITY(have) -> break }
        REPAIR_ARRIVES(0)
        REPAIR_ARRIVES(1)
        REPAIR_ARRIVES(2)
#ifdef WRITE_BACK_TO_THOSE_READ
        /* A repair that failed is not replaced by another replica. */
        :: atomic { !MAJORITY(have) -> printf("reader %d: its repair is lost\n", me); break }
#endif
        od;
#endif
        atomic {
            printf("reader %d answers v%d\n", me, best);
            assert(best >= told);       /* no acknowledged write is missed */
            assert(best >= seen);       /* no read goes back behind an earlier one */
            if
            :: best > returned -> returned = best
            :: else
            fi;
#ifdef SHOW_THAT_ALL_CAN_SUCCEED
            answers++;
            assert(!(answers == WRITERS + READERS * READS && e == EPOCHS - 1));
#endif
            read = 0; best = 0; have = 0; told = 0; seen = 0; refused = false;
            n++
        }
    od
}

inline publish(r, trusted) {
    epoch++;
    i = 0;
    do
    :: i < REPLICAS -> counted[epoch * REPLICAS + i] = counted[(epoch - 1) * REPLICAS + i]; i++
    :: else -> break
    od;
    i = 0;
    counted[epoch * REPLICAS + r] = trusted;
    printf("control plane: epoch %d: life %d of replica %d counts\n", epoch, trusted, r)
}

inline raise_fence(r) {
    atomic { fence[r] = epoch; printf("control plane: replica %d fenced at epoch %d\n", r, epoch) }
}

inline copy_from(r) {
    atomic {
        if
        :: version[r] > best -> best = version[r]
        :: else
        fi;
        printf("control plane: repair reads version %d at replica %d\n", version[r], r)
    }
}

/* A power cut, and the way back. The two others must keep what they have meanwhile: with fewer than a majority left an
 * operator decides, which is not modelled. */
proctype PowerAndControlPlane() {
    byte lost, one, other, best, i, cuts;

end:
    do
    :: cuts == POWER_CUTS -> break
    :: else ->
        atomic {
            if
            :: cuts == 0 -> lost = 1        /* which one is the first makes no difference: all are alike */
            :: cuts > 0 -> lost = 0
            :: cuts > 0 -> lost = 1
            :: cuts > 0 -> lost = 2
            fi;
            one = (lost + 1) % REPLICAS;
            other = (lost + 2) % REPLICAS;
            life[lost]++;
            version[lost] = 0;
            if
            :: fence[lost] = 0
            :: fence[lost] = 1              /* from an old dump */
            :: skip
            fi;
            printf("replica %d loses what it stored; life %d, fence %d\n", lost, life[lost], fence[lost]);
            cuts++
        }
#ifndef NEW_LIFE_SAME_EPOCH
        atomic { publish(lost, 0) }
#ifndef REPAIR_BEFORE_FENCE
        raise_fence(one);
        raise_fence(other);
#endif
#endif
        raise_fence(lost);
        copy_from(one);
        copy_from(other);
        atomic {
            if
            :: version[lost] < best -> version[lost] = best
            :: else
            fi;
            best = 0;
            printf("control plane: replica %d repaired, version %d\n", lost, version[lost])
        }
#ifdef REPAIR_BEFORE_FENCE
        raise_fence(one);
        raise_fence(other);
#endif
#ifdef NEW_LIFE_SAME_EPOCH
        atomic {
            counted[epoch * REPLICAS + lost] = life[lost];
            printf("control plane: still epoch %d: life %d of replica %d counts\n", epoch, life[lost], lost)
        }
#else
        atomic { publish(lost, life[lost]) }
#endif
    od
}

init {
    byte i;
    atomic {
        epoch = 1;
        do
        :: i < REPLICAS -> life[i] = 1; fence[i] = 1; counted[REPLICAS + i] = 1; i++
        :: else -> break
        od;
        i = 1;
        do
        :: i <= WRITERS -> run Writer(i); i++
        :: else -> break
        od;
        i = 1;
        do
        :: i <= READERS -> run Reader(i); i++
        :: else -> break
        od;
#if POWER_CUTS > 0
        run PowerAndControlPlane()
#endif
    }
}
