/*
 * The file system on the disk, as its bytes are; tools/ternfs.py has the same. All numbers are
 * little-endian.
 *
 *   block 0          nothing (a boot sector's place)
 *   block 1          struct superblock
 *   log_start        the log: its header, then log_blocks - 1 copies of blocks (log.c)
 *   inode_start      the inodes, 16 in a block; number 0 is not used, 1 is the root directory
 *   bitmap_start     a bit for each block of the disk: 1 if it is in use
 *   data_start       files, directories, indirect blocks
 */
#ifndef TERNFS_H
#define TERNFS_H

#include "kernel.h"

#define BLOCK_SIZE 1024
#define SUPERBLOCK 1
#define ROOT_INODE 1

struct superblock {
    char magic[8];
    uint32_t block_size, blocks;
    uint32_t log_start, log_blocks;
    uint32_t inode_start, inodes;
    uint32_t bitmap_start, data_start;
    uint32_t checksum; /* CRC-32 of what is above */
};
#define TERNFS_MAGIC "TERNFS1"

#define DIRECT 12
#define POINTERS (BLOCK_SIZE / 4)
#define MAX_FILE_BLOCKS (DIRECT + POINTERS + POINTERS * POINTERS)

struct inode {
    uint16_t type;  /* TYPE_NONE: free; TYPE_FILE, TYPE_DIRECTORY */
    uint16_t links; /* names: 1, or 0 if it only lives while it is open */
    uint32_t size;
    uint32_t direct[DIRECT]; /* blocks; 0: a hole, zeros */
    uint32_t indirect;       /* a block of numbers of blocks */
    uint32_t twice_indirect; /* a block of numbers of such blocks */
};
#define INODES_IN_BLOCK (BLOCK_SIZE / sizeof(struct inode))

/* A directory's contents. The first entry is "..". Inode 0: nothing. */
struct disk_entry {
    uint32_t inode;
    char name[FILE_NAME_SIZE];
};

#define MAX_BLOCKS (128 * 1024) /* 128 MiB: so that an operation fits into the log */
#define MAX_INODES 16384
#define BITS_IN_BLOCK (BLOCK_SIZE * 8)

/*
 * No operation changes more blocks than this. The largest is writing a piece of a file: 8 blocks of
 * data, 4 of numbers (single, double, and two below), a bitmap block for each of these 12 on a disk that
 * is nearly full, and the inode. Freeing touches the inode and the 16 bitmap blocks that there may be.
 */
#define MAX_OPERATION 28
#define PIECE 8

/* cache.c: blocks in memory. */
struct buffer {
    uint32_t block; /* 0: none */
    uint32_t stamp; /* when it was last asked for */
    bool logged;    /* changed, and not yet at home on the disk: must stay */
    uint8_t *data;
};
#define BUFFERS 96
int cache_init(void);
struct buffer *block_get(uint32_t block);
struct buffer *block_fresh(uint32_t block);
int block_write(uint32_t block, const void *data);
int block_read(uint32_t block, void *data);

/* log.c */
int log_open(const struct superblock *s);
void reading_begin(void);
void reading_end(void);
int operation_begin(void);
void operation_end(void);
void log_block(struct buffer *buffer);
int log_sync(void);
uint32_t crc32(uint32_t crc, const void *data, uint32_t length);
extern uint32_t log_commits;

/* inodes.c */
extern uint32_t free_blocks;
int inode_load(uint32_t number, struct inode *inode);
int inode_store(uint32_t number, const struct inode *inode);
int inode_allocate(int type);
void inode_empty(struct inode *inode);
void inode_free(uint32_t number, struct inode *inode);
int inode_read(struct inode *inode, char *to, uint32_t offset, uint32_t size);
int inode_write(uint32_t number, struct inode *inode, const char *from, uint32_t offset, uint32_t size);
uint32_t block_of(const struct inode *inode, uint32_t index);
void blocks_count(void);

/* ternfs.c, check.c */
extern struct superblock superblock;
const char *check(uint32_t *orphans);

#endif
